// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Code made at run time keeps frame pointers but has no table. Where it was interrupted outside of its frame (at the function's first two
// instructions, between `leave` and the return, or a jump to the next function in its place) the frame pointer is its caller's, and the chain
// would leave the caller out. The instructions there say so: these are what V8 and the Erlang VM (with its check of the budget, r14, before a
// return) begin and end functions with, seen in their memory.
#pragma once
#include "rules.h"

#define BEFORE 8 // bytes that are looked at before the place
#define AFTER 12

static __always_inline bool sets_frame(__u8 *at) { // mov %rsp, %rbp
    return at[0] == 0x48 && ((at[1] == 0x89 && at[2] == 0xe5) || (at[1] == 0x8b && at[2] == 0xec));
}

static __always_inline bool counts_down(__u8 *at) { // dec %r14
    return at[0] == 0x49 && at[1] == 0xff && at[2] == 0xce;
}

static __always_inline bool returns(__u8 *at) {
    return at[0] == 0xc3 || at[0] == 0xc2;
}

static __always_inline bool before_frame(__u8 *at) {
    if (at[0] == 0x55 && sets_frame(at + 1)) // push %rbp
        return true;
    return at[0] == 0xeb && at[1] == 6 && at[8] == 0x55 && sets_frame(at + 9); // the Erlang VM's jump over a breakpoint
}

static __always_inline bool behind_frame(__u8 *at) {
    if (returns(at))
        return true;
    if (at[-1] == 0xc9 && (at[0] == 0xe9 || at[0] == 0xeb || counts_down(at))) // leave
        return true;
    return at[-4] == 0xc9 && counts_down(at - 3) && at[0] == 0x0f && at[1] == 0x8c;
}

// Takes the walk to the caller of an interrupted function that has no frame. Returns false when it has one, or cannot be looked at.
static __always_inline bool without_frame(struct walk *walk) {
    __u8 code[BEFORE + AFTER] = {}, *at = code + BEFORE;
    __u64 sp = walk->sp, caller, base = walk->bp;
    if (bpf_probe_read_user(code, sizeof code, (void *)(walk->ip - BEFORE)) && // what is before may be no memory
        bpf_probe_read_user(at, AFTER, (void *)walk->ip))
        return false;
    if (at[-1] == 0x55 && sets_frame(at)) {
        if (!user_word(&base, sp))
            return false;
        sp += 8;
    } else if (!before_frame(at) && !behind_frame(at)) {
        return false;
    }
    if (!user_word(&caller, sp) || !caller)
        return false;
    walk->sp = sp + 8;
    walk->bp = base;
    walk->ip = caller;
    walk->exact = 0;
    walk->status = COMPLETE;
    return true;
}
