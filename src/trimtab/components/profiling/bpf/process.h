// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Whose a sample is: the process as one run of one program (a pid used again, or another program by exec, is another), and its cgroup by
// name, so that one that ended at once is still somebody's.
#pragma once
#include "walk.h"

static __always_inline __u64 process_of(struct task_struct *leader) {
    __u64 hash = mixed(0xcbf29ce484222325ULL, leader->start_boottime);
    return mixed(hash, ((__u64)leader->self_exec_id << 32) | (__u32)leader->tgid);
}

static __always_inline struct kernfs_node *parent_of(struct kernfs_node *node) {
    if (bpf_core_field_exists(struct kernfs_node___615, __parent))
        return BPF_CORE_READ((struct kernfs_node___615 *)node, __parent);
    return BPF_CORE_READ((struct kernfs_node___old *)node, parent);
}

// The cgroup that says which container it is: of version 2, or where that is not used, the memory or the pids controller's.
static __always_inline struct kernfs_node *cgroup_of(struct task_struct *task) {
    struct css_set *set = task->cgroups;
    struct cgroup *cgroup = BPF_CORE_READ(set, dfl_cgrp);
    if (BPF_CORE_READ(cgroup, level) > 0)
        return BPF_CORE_READ(cgroup, kn);
    if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id)) {
        struct cgroup *memory = BPF_CORE_READ(set, subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)], cgroup);
        if (memory && BPF_CORE_READ(memory, level) > 0)
            return BPF_CORE_READ(memory, kn);
    }
    return BPF_CORE_READ(cgroup, kn);
}

static __always_inline void tell_process(struct task_struct *leader, __u64 process, struct kernfs_node *cgroup) {
    __u64 now = bpf_ktime_get_ns();
    struct event_process *event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) {
        count(EVENTS_LOST, 1);
        return;
    }
    __builtin_memset(event, 0, sizeof *event);
    event->event = EVENT_PROCESS;
    event->tgid = leader->tgid;
    event->process = process;
    event->cgroup = BPF_CORE_READ(cgroup, id);
    bpf_probe_read_kernel(event->comm, sizeof event->comm, leader->comm);
    struct mm_struct *mm = leader->mm;
    struct file *executable = mm ? mm->exe_file : 0;
    if (executable) {
        struct inode *inode = BPF_CORE_READ(executable, f_inode);
        event->executable.inode = BPF_CORE_READ(inode, i_ino);
        event->executable.generation = BPF_CORE_READ(inode, i_generation);
        event->executable.device = BPF_CORE_READ(inode, i_sb, s_dev);
        event->executable.changed_ns = changed_ns(inode);
    }
    for (int level = 0; level < CGROUP_LEVELS; level++) {
        if (!cgroup)
            break;
        bpf_probe_read_kernel_str(event->cgroups[level], CGROUP_NAME, BPF_CORE_READ(cgroup, name));
        cgroup = parent_of(cgroup);
    }
    bpf_ringbuf_submit(event, 0);
    bpf_map_update_elem(&seen, &process, &now, BPF_ANY);
}
