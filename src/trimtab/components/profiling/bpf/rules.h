// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// From a frame to its caller, by the rows that the agent made of the file's .eh_frame.
#pragma once
#include "mapping.h"

#define SEARCH_STEPS 17 // rows of one block: one for each byte at most
#define STEP_BYTES_MAX (8 << 20)
// Where the kernel puts the interrupted registers, seen from the stack pointer in the signal's return stub (struct ucontext).
#define SIGNAL_RBP 120
#define SIGNAL_RSP 160
#define SIGNAL_RIP 168

static __always_inline bool word_at(__u32 index, __u32 *word) {
    __u32 element = index / 2;
    __u64 *two = bpf_map_lookup_elem(&rows, &element);
    if (!two)
        return false;
    *word = index & 1 ? *two >> 32 : *two;
    return true;
}

static __always_inline struct rule *rule_at(struct file_value *file, __u64 offset) {
    __u64 block = offset >> BLOCK_SHIFT;
    __u32 low, high, word;
    if (block >= file->count || !word_at(file->first + block, &low) || !word_at(file->first + block + 1, &high))
        return 0;
    for (int i = 0; i < SEARCH_STEPS; i++) { // the first row is the block's own begin
        if (high - low <= 1 || low > high)
            break;
        __u32 middle = low + (high - low) / 2;
        if (!word_at(file->first + middle, &word))
            return 0;
        if (word >> BLOCK_SHIFT <= (offset & BLOCK_MASK))
            low = middle;
        else
            high = middle;
    }
    if (!word_at(file->first + low, &word))
        return 0;
    __u32 rule = word & BLOCK_MASK;
    return bpf_map_lookup_elem(&rules, &rule);
}

static __always_inline bool user_word(__u64 *word, __u64 address) {
    return bpf_probe_read_user(word, sizeof *word, (void *)address) == 0;
}

// Of a caller only the stack and frame pointers are known (DWARF's numbers of registers).
static __always_inline bool register_of(struct walk *walk, __u8 number, __u64 *value) {
    if (number == 7) {
        *value = walk->sp;
        return true;
    }
    if (number == 6) {
        *value = walk->bp;
        return true;
    }
    struct pt_regs *regs = walk->leaf;
    if (walk->frames > 1 || !regs)
        return false;
    switch (number) {
    case 0: *value = regs->rax; return true;
    case 1: *value = regs->rdx; return true;
    case 2: *value = regs->rcx; return true;
    case 3: *value = regs->rbx; return true;
    case 8: *value = regs->r8; return true;
    case 9: *value = regs->r9; return true;
    case 10: *value = regs->r10; return true;
    case 11: *value = regs->r11; return true;
    case 12: *value = regs->r12; return true;
    case 13: *value = regs->r13; return true;
    }
    return false;
}

// Takes the walk one frame further, or says in walk->status why it ends and returns false.
static __always_inline bool by_frame_pointer(struct walk *walk, bool whole_chain) {
    __u64 caller, base = walk->bp;
    if (base == 0 && whole_chain) {
        walk->status = COMPLETE; // the first function of a thread of Go or of a runtime begins its chain with 0
        return false;
    }
    walk->status = NO_TABLE;
    // Out of reach is another stack, where runtimes keep their own: the Erlang VM's processes call C on the thread's.
    bool other = base < walk->sp || base > walk->sp + STEP_BYTES_MAX;
    if ((other && !whole_chain) || (base & 7))
        return false;
    if (!user_word(&caller, base + 8) || !user_word(&walk->bp, base)) {
        walk->status = UNREADABLE;
        return false;
    }
    if (other && !caller)
        return false;
    walk->sp = base + 16;
    walk->ip = caller;
    walk->exact = 0;
    walk->status = COMPLETE;
    return caller != 0;
}

static __always_inline bool from_signal(struct walk *walk) {
    __u64 sp = walk->sp;
    if (!user_word(&walk->ip, sp + SIGNAL_RIP) || !user_word(&walk->bp, sp + SIGNAL_RBP) ||
        !user_word(&walk->sp, sp + SIGNAL_RSP)) {
        walk->status = UNREADABLE;
        return false;
    }
    walk->exact = 1;
    return true;
}

static __always_inline bool by_rule(struct walk *walk, struct rule *rule) {
    __u64 base, cfa, caller;
    __s32 return_at = -8;
    if (rule->cfa == CFA_END)
        return false;
    if (rule->cfa == CFA_SIGNAL)
        return from_signal(walk);
    if (rule->cfa == CFA_UNSUPPORTED || !register_of(walk, rule->reg, &base)) {
        walk->status = EXPRESSION;
        return false;
    }
    cfa = base + rule->cfa_offset;
    walk->status = UNREADABLE;
    if (rule->cfa == CFA_DEREF) {
        if (!user_word(&cfa, cfa))
            return false;
        cfa += rule->more;
    } else if (rule->cfa == CFA_PLT) {
        if ((__s32)(walk->ip & 15) >= rule->more)
            cfa += 8;
    } else {
        return_at = rule->more;
    }
    if (!user_word(&caller, cfa + return_at))
        return false;
    if (rule->rbp == RBP_AT_CFA && !user_word(&walk->bp, cfa + rule->rbp_offset))
        return false;
    if (rule->rbp == RBP_AT_RBP && !user_word(&walk->bp, walk->bp + rule->rbp_offset))
        return false;
    if (cfa <= walk->sp && walk->frames > 1) // a stack that does not shrink: the walk would not end
        return false;
    walk->sp = cfa;
    walk->ip = caller;
    walk->exact = 0;
    walk->status = COMPLETE;
    return caller != 0;
}
