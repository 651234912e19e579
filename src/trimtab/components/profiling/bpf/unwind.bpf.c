// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What every CPU is doing, some times a second. A timer interrupts; the user's stack is walked by unwind tables (frames in files), by frame
// pointers (code made at run time, Go, gaps), the kernel's by the kernel; equal stacks of a process are counted in one place. No sample is
// lost in silence: each is counted by how its walk ended, and so is what there was no room for.
#include "maps.h"
#include "walk.h"
#include "mapping.h"
#include "process.h"
#include "python.h"
#include "rules.h"
#include "made.h"

static long step(__u32 index, struct walk *walk) {
    struct scratch *scratch = walk->scratch;
    __u64 place = walk->exact ? walk->ip : walk->ip - 1;
    struct mapping *mapping = find_mapping(walk, scratch, place);
    __u64 frame = place;
    if (mapping && mapping->known)
        frame = FRAME_FILE << FRAME_KIND_SHIFT | (__u64)mapping->file.id << FRAME_FILE_SHIFT | (place - mapping->shift);
    if (mapping && mapping->known && mapping->file.extra[0]) {
        walk->python = mapping->file.extra[0];
        walk->python_shift = mapping->shift;
    }
    if (!put(walk, scratch, frame)) {
        walk->status = TRUNCATED;
        return 1;
    }
    if (!mapping) {
        walk->status = UNKNOWN_MAPPING;
        return 1;
    }
    if (mapping->backed && !(mapping->known && mapping->file.flags & FILE_SETTLED)) {
        if (!by_frame_pointer(walk, false)) {
            walk->status = UNKNOWN_FILE;
            return 1;
        }
        return 0;
    }
    struct rule *rule = 0;
    if (mapping->known && mapping->file.flags & FILE_TABLE)
        rule = rule_at(&mapping->file, place - mapping->shift);
    if (rule && rule->cfa != CFA_GAP)
        return by_rule(walk, rule) ? 0 : 1;
    if (!mapping->backed && walk->exact && without_frame(walk))
        return 0;
    return by_frame_pointer(walk, !mapping->backed || mapping->file.flags & FILE_FRAME_POINTERS) ? 0 : 1;
}

#define ANCESTORS 16

static __always_inline bool chosen(struct task_struct *task, struct config *config, struct kernfs_node *cgroup) {
    if (config->cgroup) {
        for (int i = 0; i < ANCESTORS; i++) {
            if (!cgroup)
                return false;
            if (BPF_CORE_READ(cgroup, id) == config->cgroup)
                break;
            cgroup = parent_of(cgroup);
            if (i == ANCESTORS - 1)
                return false;
        }
    }
    if (!config->tgid)
        return true;
    for (int i = 0; i < ANCESTORS; i++) {
        __u32 tgid = BPF_CORE_READ(task, tgid);
        if (tgid == config->tgid)
            return true;
        if (tgid <= 1)
            return false;
        task = BPF_CORE_READ(task, real_parent);
    }
    return false;
}

// The context is not what it seems: each field is read by a rewritten instruction.
static __always_inline void from_context(struct bpf_perf_event_data *context, struct pt_regs *regs) {
    regs->rip = context->regs.rip, regs->rsp = context->regs.rsp, regs->rbp = context->regs.rbp;
    regs->rax = context->regs.rax, regs->rbx = context->regs.rbx, regs->rcx = context->regs.rcx;
    regs->rdx = context->regs.rdx, regs->r8 = context->regs.r8, regs->r9 = context->regs.r9;
    regs->r10 = context->regs.r10, regs->r11 = context->regs.r11, regs->r12 = context->regs.r12;
    regs->r13 = context->regs.r13, regs->cs = context->regs.cs;
}

static __always_inline void walk_user(struct pt_regs *regs, struct walk *walk, struct scratch *scratch) {
    if (!(regs->cs & 3)) {
        walk->status = KERNEL_ONLY;
        return;
    }
    walk->ip = regs->rip;
    walk->sp = regs->rsp;
    walk->bp = regs->rbp;
    walk->exact = 1;
    walk->leaf = regs;
    for (int i = 0; i < RECENT; i++)
        scratch->recent[i].start = scratch->recent[i].end = 0;
    bpf_loop(USER_FRAMES + 1, step, walk, 0);
}

// `times`: how many events the sample stands for; `value`: their sum, where the count does not say it.
static __always_inline void keep(struct config *config, struct walk *walk, struct scratch *scratch, __u64 times, __u64 value) {
    struct stack *stack = &scratch->waiting.stack;
    struct stack_key key = {.process = stack->process, .hash = walk->hash};
    __u32 which = config->active & 1;
    void *map = which ? (void *)&stacks_b : (void *)&stacks_a;
    struct stack *known = bpf_map_lookup_elem(map, &key);
    if (known) {
        __sync_fetch_and_add(&known->count, times);
        __sync_fetch_and_add(&known->value, value);
        return;
    }
    stack->count = times;
    stack->value = value;
    if (bpf_map_update_elem(map, &key, stack, BPF_NOEXIST)) {
        known = bpf_map_lookup_elem(map, &key); // another CPU was quicker
        if (known) {
            __sync_fetch_and_add(&known->count, times);
            __sync_fetch_and_add(&known->value, value);
        } else {
            count(NO_ROOM, 1);
        }
        return;
    }
    __u64 *filled = bpf_map_lookup_elem(&fill, &which);
    if (filled && __sync_fetch_and_add(filled, 1) == config->capacity / 4 * 3) {
        __u32 event = EVENT_FULL;
        bpf_ringbuf_output(&events, &event, sizeof event, 0);
    }
}

// Whose the sample is. Returns false when it is not wanted.
static __always_inline bool identify(struct config *config, struct walk *walk, struct scratch *scratch) {
    struct task_struct *leader = walk->task->group_leader;
    struct kernfs_node *cgroup = cgroup_of(walk->task);
    if (!chosen(walk->task, config, cgroup))
        return false;
    struct stack *stack = &scratch->waiting.stack;
    __u64 comm[2] = {};
    bpf_get_current_comm(comm, sizeof comm);
    __builtin_memcpy(stack->comm, comm, sizeof comm);
    walk->tgid = leader->tgid;
    stack->tgid = walk->tgid;
    stack->process = process_of(leader);
    stack->cgroup = BPF_CORE_READ(cgroup, id);
    walk->hash = mixed(mixed(stack->cgroup, comm[0]), comm[1]);
    if (!bpf_map_lookup_elem(&seen, &stack->process))
        tell_process(leader, stack->process, cgroup);
    return true;
}

// What is left after both walks: the interpreter's frames, how it ended, the hash over all. `bytes`: of the kernel's stack.
static __always_inline void finish(struct config *config, struct walk *walk, struct scratch *scratch, long bytes, enum level level) {
    struct stack *stack = &scratch->waiting.stack;
    stack->python = python_sample(walk, stack->process, config->active, level);
    walk->hash = mixed(walk->hash, stack->python);
    stack->users = walk->frames;
    stack->status = walk->status;
    stack->kernels = bytes > 0 ? bytes / sizeof(__u64) : 0;
    for (int i = 0; i < KERNEL_FRAMES; i++) {
        if (i >= stack->kernels)
            break;
        walk->hash = mixed(walk->hash, stack->kernel[i]);
    }
    walk->hash = mixed(walk->hash, (__u64)walk->frames << 16 | walk->status << 8 | stack->type);
    count(SAMPLES, 1);
    count(FRAMES, walk->frames);
    count(walk->status, 1);
}

static __always_inline void sample(struct bpf_perf_event_data *context, struct config *config, enum type type) {
    struct scratch *scratch = scratch_of(INTERRUPTS);
    struct walk walk = {.scratch = scratch, .task = (void *)bpf_get_current_task_btf()};
    struct pt_regs regs = {};
    long bytes = 0;
    if (!scratch || !identify(config, &walk, scratch))
        return;
    scratch->waiting.stack.type = type;
    if (context->regs.cs & 3)
        from_context(context, &regs);
    else
        bpf_probe_read_kernel(&regs, sizeof regs, (void *)bpf_task_pt_regs(walk.task));
    if (walk.task->flags & PF_KTHREAD)
        walk.status = KERNEL_ONLY;
    else
        walk_user(&regs, &walk, scratch);
    if (!(context->regs.cs & 3))
        bytes = bpf_get_stack(context, scratch->waiting.stack.kernel, KERNEL_FRAMES * sizeof(__u64), 0);
    finish(config, &walk, scratch, bytes, INTERRUPTS);
    keep(config, &walk, scratch, 1, 0);
}

static __always_inline int on_event(struct bpf_perf_event_data *context, enum type type) {
    __u64 began = bpf_ktime_get_ns();
    __u32 zero = 0;
    struct config *config_now = bpf_map_lookup_elem(&config, &zero);
    if (!config_now || config_now->off)
        return 0;
    sample(context, config_now, type);
    count(RUN_NS, bpf_ktime_get_ns() - began);
    return 0;
}

SEC("perf_event")
int on_cpu(struct bpf_perf_event_data *context) {
    return on_event(context, ON_CPU);
}

SEC("perf_event")
int on_page_fault(struct bpf_perf_event_data *context) {
    return on_event(context, PAGE_FAULTS);
}

#include "off_cpu.h"
#include "bytes.h"

char LICENSE[] SEC("license") = "GPL";
