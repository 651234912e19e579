// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What is counted in bytes, by the stack that asked for them: of disks, of the network, of memory.
//
// Such events come by the hundred thousand a second, so few are walked. On each CPU the bytes of a type are counted down to the next
// sample, which stands for all since the last one: whether an event becomes a sample is in proportion to its bytes, and sums come out right.
// How far apart samples are is drawn anew each time, so that no program keeps step. It grows by a quarter with each sample beyond the hundred
// that a CPU may take in a hundred times `pace_ns`, and comes back when there were few.
#pragma once

struct quota {
    __s64 left;                    // bytes until the next sample
    __u64 interval, began, taken;  // bytes between samples on average; since when so many samples were taken
    __u64 bytes, events, untimed; // since the last sample; events that nobody has timed yet
};
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, TYPES);
    __type(key, __u32);
    __type(value, struct quota);
} quotas SEC(".maps");
#define SAMPLES_MAX 100
#define TIMED 256 // one of so many events is timed, for what all of them cost

static __always_inline void next_sample(struct config *config, struct quota *quota, __u64 now) {
    __u64 windows = (now - quota->began) / (SAMPLES_MAX * config->pace_ns);
    quota->taken++;
    if (windows) {
        quota->interval = windows > 8 ? 0 : quota->taken < SAMPLES_MAX / 8 ? quota->interval / 2 : quota->interval;
        quota->taken = 0;
        quota->began = now;
    } else if (quota->taken > SAMPLES_MAX && quota->interval < 1ULL << 31) {
        quota->interval += quota->interval / 4;
    }
    if (quota->interval < config->every)
        quota->interval = config->every;
    quota->bytes = quota->events = 0;
    quota->left = quota->interval / 2 + ((__u64)bpf_get_prandom_u32() * quota->interval >> 32);
}

static __always_inline void sample_bytes(void *context, struct config *config, struct quota *quota, enum type type, bool path) {
    struct scratch *scratch = scratch_of(TASKS);
    struct walk walk = {.scratch = scratch, .task = (void *)bpf_get_current_task_btf()};
    struct pt_regs regs = {};
    // Busy: another task was at it when it lost the CPU, or an interrupt came in between. The next event is a sample instead.
    if (!scratch || __sync_lock_test_and_set(&scratch->busy, 1))
        return;
    __u64 events = quota->events, bytes = quota->bytes;
    next_sample(config, quota, bpf_ktime_get_ns());
    if (identify(config, &walk, scratch)) {
        scratch->waiting.stack.type = type;
        bool thread_of_kernel = walk.task->flags & PF_KTHREAD;
        if (thread_of_kernel) {
            walk.status = KERNEL_ONLY;
        } else {
            bpf_probe_read_kernel(&regs, sizeof regs, (void *)bpf_task_pt_regs(walk.task));
            walk_user(&regs, &walk, scratch);
        }
        // Without this program itself and what calls it.
        long kernel = 0;
        if (path || thread_of_kernel)
            kernel = bpf_get_stack(context, scratch->waiting.stack.kernel, KERNEL_FRAMES * sizeof(__u64), 2);
        finish(config, &walk, scratch, kernel, TASKS);
        keep(config, &walk, scratch, events, bytes);
    }
    scratch->busy = 0;
}

// `path`: the kernel's part of the stack says something, too; where it is always the same it would only hide who asked.
static __always_inline int on_bytes(void *context, enum type type, __u64 bytes, bool path) {
    __u32 zero = 0, which = type;
    struct config *config_now = bpf_map_lookup_elem(&config, &zero);
    struct quota *quota = bpf_map_lookup_elem(&quotas, &which);
    if (!config_now || config_now->off || !quota || !bytes)
        return 0;
    __u64 began = ++quota->untimed >= TIMED ? bpf_ktime_get_ns() : 0;
    if (config_now->tgid || config_now->cgroup) {
        struct task_struct *task = (void *)bpf_get_current_task_btf();
        if (!chosen(task, config_now, cgroup_of(task)))
            return 0;
    }
    quota->bytes += bytes;
    quota->events++;
    quota->left -= bytes;
    if (quota->left <= 0) {
        __u64 walked = bpf_ktime_get_ns();
        sample_bytes(context, config_now, quota, type, path);
        count(RUN_NS, bpf_ktime_get_ns() - walked);
    } else if (began) {
        count(RUN_NS, (bpf_ktime_get_ns() - began) * quota->untimed);
        quota->untimed = 0;
    }
    return 0;
}

// Disks, as the kernel accounts them to processes (/proc/PID/io): what is read when the device is asked for it, in the task that needs it;
// what is written through the page cache when the cache gets dirty, since the device gets it later and from a thread of the kernel's;
// what is written past the cache (O_DIRECT) when the device is asked.
#define BIO_CLONED 1 // a bit of bi_flags, the same since 4.8: a device that stands on others passes it on, where it is counted already
#define OPERATION 0xff

SEC("tp_btf/block_bio_queue")
int disk_asked(__u64 *context) { // the bio
    struct bio *bio = (void *)context[0];
    __u32 how = bio->bi_opf, operation = how & OPERATION;
    if (bio->bi_flags & 1 << BIO_CLONED)
        return 0;
    bool read = operation == bpf_core_enum_value(enum req_op, REQ_OP_READ);
    __u32 direct = 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_IDLE);
    __u32 metadata = 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_META);
    if (!read && (operation != bpf_core_enum_value(enum req_op, REQ_OP_WRITE) || (how & (direct | metadata)) != direct))
        return 0;
    return on_bytes(context, read ? DISK_READ : DISK_WRITE, bio->bi_iter.bi_size, true);
}

SEC("tp_btf/writeback_dirty_folio")
int disk_dirtied(__u64 *context) { // the folio, whose it is
    void *folio = (void *)context[0];
    __u64 flags = 0, pages = 1;
    bpf_probe_read_kernel(&flags, sizeof flags, folio); // they are its first word in all kernels, of one type or another
    if (flags >> bpf_core_enum_value(enum pageflags, PG_head) & 1) {
        if (bpf_core_field_exists(struct folio___615, _nr_pages))
            pages = BPF_CORE_READ((struct folio___615 *)folio, _nr_pages);
        else if (bpf_core_field_exists(struct folio___60, _folio_nr_pages))
            pages = BPF_CORE_READ((struct folio___60 *)folio, _folio_nr_pages);
    }
    return on_bytes(context, DISK_WRITE, pages << PAGE_SHIFT, true);
}

// The network: what went through a socket of the internet's protocols, other machines' and this one's, in whatever call.
#define AF_INET 2
#define AF_INET6 10
#define MSG_PEEK 2

static __always_inline int on_socket(__u64 *context, enum type type) { // the socket, bytes or an error, flags
    struct sock *socket = (void *)context[0];
    __s32 bytes = context[1];
    if (bytes <= 0 || context[2] & MSG_PEEK)
        return 0;
    __u16 family = BPF_CORE_READ(socket, __sk_common.skc_family);
    return family == AF_INET || family == AF_INET6 ? on_bytes(context, type, bytes, false) : 0;
}

SEC("tp_btf/sock_send_length")
int sent(__u64 *context) {
    return on_socket(context, NET_SENT);
}

SEC("tp_btf/sock_recv_length")
int received(__u64 *context) {
    return on_socket(context, NET_RECEIVED);
}

// Memory: by how much the private writable memory of a process grew while a task of it held the lock on its mappings for itself: brk, mmap,
// mprotect of what was only reserved, mremap. Pages come when they are touched: that are its page faults.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 512);
    __type(key, __u32);
    __type(value, __u64);
} growing SEC(".maps");

// Mappings of the process itself; not of one that it forks, nor of the program that it is about to become.
static __always_inline struct mm_struct *own_mappings(__u64 *context) {
    struct task_struct *task = (void *)bpf_get_current_task_btf();
    struct mm_struct *mm = (void *)context[0];
    return (context[1] & 1) && mm && mm == task->mm ? mm : 0;
}

SEC("tp_btf/mmap_lock_acquire_returned")
int memory_locked(__u64 *context) { // whose mappings, for itself?, did it get it?
    struct mm_struct *mm = own_mappings(context);
    __u32 tid = bpf_get_current_pid_tgid();
    if (!mm || !(context[2] & 1))
        return 0;
    __u64 pages = BPF_CORE_READ(mm, data_vm);
    bpf_map_update_elem(&growing, &tid, &pages, BPF_ANY);
    return 0;
}

SEC("tp_btf/mmap_lock_released")
int memory_unlocked(__u64 *context) { // whose mappings, for itself?
    struct mm_struct *mm = own_mappings(context);
    __u32 tid = bpf_get_current_pid_tgid();
    __u64 *before = mm ? bpf_map_lookup_elem(&growing, &tid) : 0;
    if (!before)
        return 0;
    __u64 pages = BPF_CORE_READ(mm, data_vm);
    if (pages <= *before)
        return 0;
    pages -= *before;
    *before += pages;
    return on_bytes(context, ALLOCATIONS, pages << PAGE_SHIFT, false);
}
