// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// From an address to the file that is mapped there, by the kernel's own tree of a process's mappings. So nothing has to be learned of a
// process before its first sample: one that lives for a millisecond, has just called exec or dlopen, or has thousands of mappings is no
// special case. What has to be known are files, and there are few.
//
// The tree (linux/maple_tree.h, since 6.1) is read without its lock: an interrupted writer may be in the middle of a change. Whatever is
// read is checked against the mapping's own bounds, and a wrong turn is a miss.
#pragma once
#include "walk.h"

#define NODE_MASK 255UL
#define TREE_DEPTH 6
enum node_type { LEAF = 1, RANGE = 2, ARANGE = 3 };
#define RANGE_SLOTS 16
#define ARANGE_SLOTS 10

static __always_inline void *mapping_at(struct mm_struct *mm, __u64 address, struct scratch *scratch) {
    __u64 entry = (__u64)BPF_CORE_READ(mm, mm_mt.ma_root);
    if ((entry & 3) != 2 || entry < 4096)
        return 0;
    for (int depth = 0; depth < TREE_DEPTH; depth++) {
        __u32 type = (entry >> 3) & 15;
        if (bpf_probe_read_kernel(scratch->node, sizeof scratch->node, (void *)(entry & ~NODE_MASK)))
            return 0;
        // parent, pivots (one fewer than slots), slots
        __u32 slots = type == ARANGE ? ARANGE_SLOTS : RANGE_SLOTS, slot = 0;
        if (type != LEAF && type != RANGE && type != ARANGE)
            return 0;
        for (; slot < RANGE_SLOTS - 1; slot++) {
            if (slot >= slots - 1)
                break;
            __u64 pivot = scratch->node[1 + slot];
            if (pivot == 0 || address <= pivot)
                break;
        }
        entry = scratch->node[(slots + slot) & 31];
        if (type == LEAF)
            return (void *)entry;
        if (entry < 4096)
            return 0;
    }
    return 0;
}

static __always_inline __u64 changed_ns(struct inode *inode) {
    if (bpf_core_field_exists(struct inode___611, i_mtime_sec))
        return BPF_CORE_READ((struct inode___611 *)inode, i_mtime_sec) * 1000000000ULL +
               BPF_CORE_READ((struct inode___611 *)inode, i_mtime_nsec);
    if (bpf_core_field_exists(struct inode___66, __i_mtime))
        return BPF_CORE_READ((struct inode___66 *)inode, __i_mtime.tv_sec) * 1000000000ULL +
               BPF_CORE_READ((struct inode___66 *)inode, __i_mtime.tv_nsec);
    return BPF_CORE_READ((struct inode___old *)inode, i_mtime.tv_sec) * 1000000000ULL +
           BPF_CORE_READ((struct inode___old *)inode, i_mtime.tv_nsec);
}

static __always_inline void key_of(struct file *file, struct file_key *key) {
    struct inode *inode = BPF_CORE_READ(file, f_inode);
    key->inode = BPF_CORE_READ(inode, i_ino);
    key->generation = BPF_CORE_READ(inode, i_generation);
    key->device = BPF_CORE_READ(inode, i_sb, s_dev);
    key->changed_ns = changed_ns(inode);
}

#define ASK_AGAIN_NS 1000000000ULL

// Tells the agent of a file that it has not said anything of: again after a second, should it have come too late.
static __always_inline void want(struct walk *walk, struct file_key *key, struct mapping *mapping, __u64 page) {
    __u64 now = bpf_ktime_get_ns(), *last = bpf_map_lookup_elem(&wanted, key);
    if (last && now - *last < ASK_AGAIN_NS)
        return;
    struct event_file *event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) {
        count(EVENTS_LOST, 1);
        return;
    }
    event->event = EVENT_FILE;
    event->tgid = walk->tgid;
    event->key = *key;
    event->id = mapping->file.id;
    event->pad = 0;
    event->start = mapping->start;
    event->end = mapping->end;
    event->page = page;
    bpf_ringbuf_submit(event, 0);
    bpf_map_update_elem(&wanted, key, &now, BPF_ANY);
}

// Gives a file its number.
static __always_inline struct file_value *new_file(struct file_key *key) {
    __u32 last = LAST_ID;
    __u64 *id = bpf_map_lookup_elem(&fill, &last);
    if (!id)
        return 0;
    struct file_value value = {.id = (__sync_fetch_and_add(id, 1) + 1) & (FILE_IDS - 1)};
    bpf_map_update_elem(&files, key, &value, BPF_NOEXIST);
    return bpf_map_lookup_elem(&files, key);
}

// The mapping at an address: one of the last few, or looked up. Null when there is none.
static __always_inline struct mapping *find_mapping(struct walk *walk, struct scratch *scratch, __u64 address) {
    for (int i = 0; i < RECENT; i++)
        if (address >= scratch->recent[i].start && address < scratch->recent[i].end)
            return &scratch->recent[i];
    struct mm_struct *mm = walk->task->mm;
    if (!mm)
        return 0;
    struct vm_area_struct *area = mapping_at(mm, address, scratch);
    if (!area)
        return 0;
    __u64 start = BPF_CORE_READ(area, vm_start), end = BPF_CORE_READ(area, vm_end);
    if (address < start || address >= end)
        return 0;
    struct mapping *found = &scratch->recent[scratch->next++ & (RECENT - 1)];
    struct file *file = BPF_CORE_READ(area, vm_file);
    struct file_key key = {};
    __u64 page = 0;
    found->start = start;
    found->end = end;
    found->known = 0;
    found->backed = 0;
    found->shift = 0;
    if (file) {
        key_of(file, &key);
        page = BPF_CORE_READ(area, vm_pgoff);
    } else if (start == (__u64)BPF_CORE_READ(mm, context.vdso)) {
        key.inode = VDSO_INODE;
    } else {
        return found;
    }
    found->backed = 1;
    found->shift = start - (page << PAGE_SHIFT);
    struct file_value *value = bpf_map_lookup_elem(&files, &key);
    if (!value)
        value = new_file(&key);
    if (!value)
        return found;
    found->file = *value;
    found->known = 1;
    if (!(found->file.flags & FILE_SETTLED))
        want(walk, &key, found, page);
    return found;
}
