// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What the program and the agent share. Every structure here has its twin in agent/layout.py.
#pragma once
#include "kernel.h"

#define USER_FRAMES 127
#define KERNEL_FRAMES 63
#define CGROUP_LEVELS 6
#define CGROUP_NAME 96

// A frame is one word: what it is in the upper 4 bits, the rest in 60.
#define FRAME_ADDRESS 0ULL // an address in memory that no known file backs
#define FRAME_FILE 1ULL    // 20 bits: the file's id; 40 bits: the offset in it
#define FRAME_KIND_SHIFT 60
#define FRAME_FILE_SHIFT 40

enum status { // how the walk of the user's stack ended
    COMPLETE, TRUNCATED, NO_TABLE, UNREADABLE, UNKNOWN_MAPPING, EXPRESSION, UNKNOWN_FILE, KERNEL_ONLY, STATUSES,
};
enum counter { // after the statuses, in the same array
    NO_ROOM = STATUSES, EVENTS_LOST, SAMPLES, RUN_NS, FRAMES, COUNTERS = 16,
};
enum event { EVENT_FILE = 1, EVENT_PROCESS, EVENT_FULL };

struct file_key { // one content of one file, whatever its name
    __u64 inode, changed_ns;
    __u32 device, generation;
};
#define VDSO_INODE (~0ULL)

// SETTLED: the agent has looked at it. Until then a file has only a number, so that its frames can be named when it has.
enum file_flags { FILE_FRAME_POINTERS = 1, FILE_TABLE = 2, FILE_SETTLED = 4 };
struct file_value {
    __u32 id, first, count; // where its rows are, and of how many blocks
    __u32 flags;
    __u32 extra[4]; // of interpreters: see python.h
};

// From an offset on, a rule holds: the offset within a block of the file in the upper half of a word, the rule in the lower; two words
// to an element. A file's words begin with where the rows of each of its blocks begin (agent/packing.py).
#define BLOCK_SHIFT 16
#define BLOCK_MASK 0xFFFF
enum cfa { CFA_GAP, CFA_END, CFA_REGISTER, CFA_DEREF, CFA_PLT, CFA_SIGNAL, CFA_UNSUPPORTED };
enum rbp { RBP_SAME, RBP_AT_CFA, RBP_AT_RBP, RBP_LOST };
struct rule { // how to come from a frame to its caller
    __u8 cfa, reg, rbp, pad;
    __s32 cfa_offset, rbp_offset;
    __s32 more; // DEREF: what is added after; PLT: from which byte of an entry on a word more is on the stack; else where the return address is
};

struct config {
    __u32 active;  // which of the two maps takes stacks
    __u32 tgid;    // only this process and its descendants; 0: all
    __u64 cgroup;  // only this cgroup and those in it; 0: all
    __u32 off;     // samples are not taken
    __u32 capacity;
    __u64 wait_ns;  // of off-CPU time: shorter waits are not counted
    __u64 pace_ns;  // on each CPU, at most one stack in so long is walked, of each type but time on a CPU; it stands for those that were not
    __u64 every;    // of what is counted in bytes: one stack is walked for so many, or more of them where that were too often
};

#define FILE_IDS (1 << 20)
#define LAST_ID 2 // in `fill`, behind how full the two maps of stacks are

struct stack_key { __u64 process, hash; };
enum type { ON_CPU, OFF_CPU, PAGE_FAULTS, DISK_READ, DISK_WRITE, NET_SENT, NET_RECEIVED, ALLOCATIONS, TYPES };
struct stack {
    __u64 count, process, cgroup;
    __u64 value, type; // nanoseconds of OFF_CPU, bytes of what is counted in bytes; of the others the count says all
    __u64 python; // the stack of the interpreter: see python.h
    __u32 tgid;
    __u16 users;
    __u8 kernels, status;
    char comm[16];
    __u64 user[USER_FRAMES + 1];
    __u64 kernel[KERNEL_FRAMES + 1];
};

struct event_file { // a sample was in a file that the agent has not said anything of
    __u32 event, tgid, id, pad;
    struct file_key key;
    __u64 start, end, page;
};
struct event_process { // the first sample of a process, or the first after its exec
    __u32 event, tgid;
    __u64 process, cgroup;
    struct file_key executable;
    char comm[16];
    char cgroups[CGROUP_LEVELS][CGROUP_NAME]; // innermost first
};

struct stacks_map {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct stack_key);
    __type(value, struct stack);
};
struct stacks_map stacks_a SEC(".maps");
struct stacks_map stacks_b SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 3 << 20);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} rows SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1 << 14);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct rule);
} rules SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, struct file_key);
    __type(value, struct file_value);
} files SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct file_key);
    __type(value, __u64);
} wanted SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, __u64);
    __type(value, __u64);
} seen SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 18);
} events SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct config);
} config SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 3);
    __type(key, __u32);
    __type(value, __u64);
} fill SEC(".maps");

static __always_inline void count(__u32 which, __u64 by) {
    __u64 *counter = bpf_map_lookup_elem(&counters, &which);
    if (counter)
        *counter += by;
}
