// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What the profiler reads of the kernel's own structures: only the fields it needs, found in the running kernel by name (CO-RE).
#pragma once
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define KERNEL __attribute__((preserve_access_index))

struct qstr { const unsigned char *name; } KERNEL;
struct super_block { __u32 s_dev; } KERNEL;
struct timespec64 { long long tv_sec; long tv_nsec; } KERNEL;
struct inode { unsigned long i_ino; __u32 i_generation; struct super_block *i_sb; } KERNEL;
// Where the time of the last change of content stands: since 6.11, since 6.6, before.
struct inode___611 { long long i_mtime_sec; __u32 i_mtime_nsec; } KERNEL;
struct inode___66 { struct timespec64 __i_mtime; } KERNEL;
struct inode___old { struct timespec64 i_mtime; } KERNEL;
struct file { struct inode *f_inode; } KERNEL;
struct maple_tree { void *ma_root; } KERNEL;
typedef struct { void *vdso; } KERNEL mm_context_t;
struct mm_struct { struct maple_tree mm_mt; mm_context_t context; struct file *exe_file; unsigned long data_vm; } KERNEL;
struct vm_area_struct {
    unsigned long vm_start, vm_end, vm_flags, vm_pgoff;
    struct file *vm_file;
} KERNEL;
struct kernfs_node { __u64 id; const char *name; } KERNEL;
struct kernfs_node___615 { struct kernfs_node *__parent; } KERNEL;
struct kernfs_node___old { struct kernfs_node *parent; } KERNEL;
struct cgroup { struct kernfs_node *kn; int level; } KERNEL;
struct cgroup_subsys_state { struct cgroup *cgroup; } KERNEL;
struct css_set { struct cgroup *dfl_cgrp; struct cgroup_subsys_state *subsys[16]; } KERNEL;
enum cgroup_subsys_id { memory_cgrp_id, pids_cgrp_id, cpu_cgrp_id };
struct thread_struct { unsigned long fsbase; } KERNEL;
struct task_struct {
    int tgid, pid;
    unsigned int flags;
    __u32 self_exec_id;
    __u64 start_boottime;
    struct mm_struct *mm;
    struct task_struct *group_leader, *real_parent;
    struct css_set *cgroups;
    struct thread_struct thread;
    char comm[16];
} KERNEL;
// What is counted in bytes: see bytes.h.
struct bvec_iter { unsigned int bi_size; } KERNEL;
struct bio { unsigned int bi_opf; unsigned short bi_flags; struct bvec_iter bi_iter; } KERNEL;
enum req_op { REQ_OP_READ, REQ_OP_WRITE };
enum req_flag_bits { __REQ_META, __REQ_IDLE };
// How many pages a large folio has: since 6.15, since 6.0, before.
struct folio___615 { unsigned int _nr_pages; } KERNEL;
struct folio___60 { unsigned int _folio_nr_pages; } KERNEL;
enum pageflags { PG_head };
struct sock_common { unsigned short skc_family; } KERNEL;
struct sock { struct sock_common __sk_common; } KERNEL;

#define PF_KTHREAD 0x00200000
#define VM_EXEC 4
#define PAGE_SHIFT 12
