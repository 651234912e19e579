// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The state of the walk of one stack.
#pragma once
#include "maps.h"

struct mapping { // a stretch of the process's memory, and what is known of the file behind it
    __u64 start, end;
    __u64 shift; // of a file: address - shift = offset in the file
    struct file_value file;
    __u8 known, backed;
};
#define RECENT 4

struct waiting { // a thread that sleeps, and where it began to
    __u64 began, weight;
    struct stack_key key;
    struct stack stack;
};

// Programs of the second level may be interrupted by those of the first, never the other way round; within the first none is interrupted.
enum level { INTERRUPTS, TASKS, LEVELS };

struct scratch { // too large for the program's own stack
    struct waiting waiting;
    struct mapping recent[RECENT];
    __u32 next, busy;
    __u64 node[32]; // one node of the kernel's maple tree
};
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, LEVELS);
    __type(key, __u32);
    __type(value, struct scratch);
} scratches SEC(".maps");

struct walk {
    struct scratch *scratch;
    __u64 ip, sp, bp, hash;
    struct task_struct *task;
    struct pt_regs *leaf; // all registers: true for the innermost frame only
    __u64 python_shift; // where the file with the interpreter is: see python.h
    __u32 python, frames, tgid;
    __u8 status, exact; // exact: ip is where it was interrupted, not behind a call
};

static __always_inline struct scratch *scratch_of(__u32 level) {
    return bpf_map_lookup_elem(&scratches, &level);
}

static __always_inline __u64 mixed(__u64 hash, __u64 word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
    return hash ^ (hash >> 29);
}

// Puts a frame into the stack. Returns false when there is no room.
static __always_inline bool put(struct walk *walk, struct scratch *scratch, __u64 frame) {
    if (walk->frames >= USER_FRAMES)
        return false;
    scratch->waiting.stack.user[walk->frames & USER_FRAMES] = frame;
    walk->frames++;
    walk->hash = mixed(walk->hash, frame);
    return true;
}
