// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Where threads wait, and for how long: at a switch of threads, the one that goes to sleep is walked, as its memory is still the current
// one; at the switch back the time is known.
//
// Switches come by the ten thousand a second, so few are walked: on each CPU at most one in `pace_ns`. It stands for all sleepers of that
// CPU since the last one (`weight`), so that sums come out right over many. Waits shorter than `wait_ns` are not kept.
#pragma once

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 2048);
    __type(key, __u32);
    __type(value, struct waiting);
} waits SEC(".maps");
struct pace {
    __u64 last, skipped;
};
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct pace);
} paces SEC(".maps");

static __always_inline void falls_asleep(__u64 *context, struct config *config, struct task_struct *task, __u64 now) {
    __u32 zero = 0, tid = task->pid;
    struct pace *pace = bpf_map_lookup_elem(&paces, &zero);
    struct scratch *scratch = scratch_of(INTERRUPTS);
    struct walk walk = {.scratch = scratch, .task = (void *)bpf_get_current_task_btf()};
    struct pt_regs regs = {};
    if (!pace || !scratch)
        return;
    // One that stands for others stands for those of the processes that are measured, and for nobody else's.
    int chosen = config->tgid || config->cgroup;
    if (chosen && !identify(config, &walk, scratch))
        return;
    pace->skipped++;
    if (now - pace->last < config->pace_ns || (!chosen && !identify(config, &walk, scratch)))
        return;
    scratch->waiting.began = now;
    scratch->waiting.weight = pace->skipped;
    pace->skipped = 0;
    pace->last = now;
    scratch->waiting.stack.type = OFF_CPU;
    bpf_probe_read_kernel(&regs, sizeof regs, (void *)bpf_task_pt_regs(walk.task));
    walk_user(&regs, &walk, scratch);
    // Without this program itself and what calls it.
    long bytes = bpf_get_stack(context, scratch->waiting.stack.kernel, KERNEL_FRAMES * sizeof(__u64), 2);
    finish(config, &walk, scratch, bytes, INTERRUPTS);
    scratch->waiting.key.process = scratch->waiting.stack.process;
    scratch->waiting.key.hash = walk.hash;
    bpf_map_update_elem(&waits, &tid, &scratch->waiting, BPF_ANY);
}

static __always_inline void wakes_up(struct config *config, __u32 tid, __u64 now) {
    struct waiting *waiting = bpf_map_lookup_elem(&waits, &tid);
    if (!waiting)
        return;
    __u64 took = now - waiting->began, weight = waiting->weight;
    if (took >= config->wait_ns) {
        void *map = config->active & 1 ? (void *)&stacks_b : (void *)&stacks_a;
        struct stack *known = bpf_map_lookup_elem(map, &waiting->key);
        if (known) {
            __sync_fetch_and_add(&known->count, weight);
            __sync_fetch_and_add(&known->value, took * weight);
        } else {
            waiting->stack.count = weight;
            waiting->stack.value = took * weight;
            if (bpf_map_update_elem(map, &waiting->key, &waiting->stack, BPF_NOEXIST))
                count(NO_ROOM, weight);
        }
    }
    bpf_map_delete_elem(&waits, &tid);
}

SEC("tp_btf/sched_switch")
int off_cpu(__u64 *context) { // preempted?, who leaves, who comes, the state of who leaves
    __u64 began = bpf_ktime_get_ns();
    __u32 zero = 0;
    struct task_struct *leaves = (void *)context[1], *comes = (void *)context[2];
    struct config *config_now = bpf_map_lookup_elem(&config, &zero);
    if (!config_now || config_now->off)
        return 0;
    if (comes->pid)
        wakes_up(config_now, comes->pid, began);
    if (context[3] && !context[0] && !(leaves->flags & PF_KTHREAD))
        falls_asleep(context, config_now, leaves, began);
    count(RUN_NS, bpf_ktime_get_ns() - began);
    return 0;
}
