// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Frames of CPython 3.11 to 3.14, walked when a native stack came through a file that holds an interpreter.
//
//   python_interpreters (agent: where _PyRuntime is, how structures are laid out) --> python_sample() --> python_stacks: which code, where in it
//                                                                                                   '--> python_codes: its names, once a drain
//
// The thread's state is found among the interpreter's threads by the thread's own number in its pid namespace, and remembered. Names are
// copied at the first sight of a code object: a process that has ended can still be named. Code objects are known by address and by
// their file's and name's objects, so that memory used again is not taken for what it was.
// The offsets come from agent/python_elf.py, which names its sources; this file's twin is agent/python_code.py.
#pragma once
#include "walk.h"

#define PYTHON_INTERPRETERS_MAX 256
#define PYTHON_FRAMES_MAX 128
#define PYTHON_THREADS_MAX 1024
#define PYTHON_NAME_BYTES 96
#define PYTHON_FILE_BYTES 192

struct python_layout {
    __u32 interpreters, interpreter_next, threads, thread_next, native_thread_id, frame;
    __s32 cframe_frame;
    __u32 previous, executable, instruction, owner, owner_c;
    __s32 is_entry;
    __u32 filename, qualified_name, line_table, first_line, code, ascii, unicode;
};

struct python_interpreter {
    __u64 runtime; // _PyRuntime, as if the file's begin were at address 0 where its code is mapped
    struct python_layout layout;
};

struct python_frame {
    __u64 code; // key in python_codes; 0: the border alone
    __u32 instruction; // bytes from the begin of the code
    __u32 border; // C code called this frame
};

enum { PYTHON_COMPLETE, PYTHON_TRUNCATED, PYTHON_UNREADABLE };

struct python_stack {
    __u64 key;
    __u32 count, status;
    struct python_frame frames[PYTHON_FRAMES_MAX];
};

struct python_text {
    __u32 length; // characters of the whole
    __u32 begin; // of them not copied, at the beginning
    __u32 width; // bytes a character: 1, 2, 4; 0: unreadable
    __u32 _pad;
};

struct python_code {
    __u64 key, address, process;
    __u32 tgid, first_line;
    struct python_text name, file;
    __u8 name_bytes[PYTHON_NAME_BYTES];
    __u8 file_bytes[PYTHON_FILE_BYTES];
};

struct python_scratch {
    struct python_layout layout;
    struct python_stack stack;
    struct python_code code;
};

struct python_walk {
    __u64 at, hash, process;
    __u32 tgid, count, status, which;
    struct python_scratch *scratch;
};

struct python_search {
    __u64 interpreter, thread, found;
    __u32 tid, interpreters;
    struct python_scratch *scratch;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PYTHON_INTERPRETERS_MAX);
    __type(key, __u32);
    __type(value, struct python_interpreter);
} python_interpreters SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, __u64);
} python_threads SEC(".maps");
struct python_stacks_map { // two, as of native stacks: one is written while the other is taken
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);
    __type(value, struct python_stack);
};
struct python_stacks_map python_stacks_a SEC(".maps");
struct python_stacks_map python_stacks_b SEC(".maps");
struct python_codes_map {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);
    __type(value, struct python_code);
};
struct python_codes_map python_codes_a SEC(".maps");
struct python_codes_map python_codes_b SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, LEVELS);
    __type(key, __u32);
    __type(value, struct python_scratch);
} python_scratch SEC(".maps");

struct upid___python {
    int nr;
    void *ns;
} __attribute__((preserve_access_index));

struct pid___python {
    unsigned int level;
    struct upid___python numbers[1];
} __attribute__((preserve_access_index));

struct task_struct___python {
    struct pid___python *thread_pid;
} __attribute__((preserve_access_index));

static __always_inline struct python_scratch *python_scratch_get(__u32 level) {
    return bpf_map_lookup_elem(&python_scratch, &level);
}

static __always_inline __u64 python_word(__u64 address) {
    __u64 value = 0;
    bpf_probe_read_user(&value, sizeof(value), (void *)address);
    return value;
}

static __always_inline __u32 python_half(__u64 address) {
    __u32 value = 0;
    bpf_probe_read_user(&value, sizeof(value), (void *)address);
    return value;
}

// The thread's number as it sees it itself, in the innermost pid namespace.
static __always_inline __u32 python_thread_number(void) {
    struct task_struct___python *task = (void *)bpf_get_current_task();
    struct pid___python *pid = BPF_CORE_READ(task, thread_pid);
    __u32 level = BPF_CORE_READ(pid, level);
    __u64 at = (__u64)pid + bpf_core_field_offset(pid->numbers) + level * bpf_core_type_size(struct upid___python);
    int number = 0;

    bpf_probe_read_kernel(&number, sizeof(number), (void *)(at + bpf_core_field_offset(struct upid___python, nr)));
    return number;
}

static long python_find(__u32 index, struct python_search *search) {
    struct python_scratch *scratch = search->scratch;

    if (!search->thread) {
        search->interpreter = python_word(search->interpreter + scratch->layout.interpreter_next);
        if (!search->interpreter || ++search->interpreters >= 64)
            return 1;
        search->thread = python_word(search->interpreter + scratch->layout.threads);
        return 0;
    }
    if (python_word(search->thread + scratch->layout.native_thread_id) == search->tid) {
        search->found = search->thread;
        return 1;
    }
    search->thread = python_word(search->thread + scratch->layout.thread_next);
    return 0;
}

static __always_inline __u64 python_current_frame(struct python_layout *layout, __u64 thread) {
    __u64 frame = python_word(thread + layout->frame);

    if (layout->cframe_frame >= 0 && frame)
        frame = python_word(frame + layout->cframe_frame);
    return frame;
}

static __always_inline __u64 python_thread(struct python_scratch *scratch, __u64 runtime, __u64 id) {
    __u64 *known = bpf_map_lookup_elem(&python_threads, &id);
    struct python_search search = {.tid = python_thread_number(), .scratch = scratch};

    if (known && python_word(*known + scratch->layout.native_thread_id) == search.tid)
        return *known;
    search.interpreter = python_word(runtime + scratch->layout.interpreters);
    if (!search.interpreter)
        return 0;
    search.thread = python_word(search.interpreter + scratch->layout.threads);
    bpf_loop(PYTHON_THREADS_MAX, python_find, &search, 0);
    if (search.found)
        bpf_map_update_elem(&python_threads, &id, &search.found, BPF_ANY);
    return search.found;
}

// Begin, length and width of a str's characters; the last `room` bytes of it are wanted when they are too many and `tail`.
static __always_inline __u64 python_text(struct python_layout *layout, __u64 object, struct python_text *text, __u32 room, int tail) {
    __u64 length = python_word(object + 16);
    __u32 state = python_half(object + 32); // interned:2 or, in some of 3.14, 16; kind:3, never 0; compact:1, ascii:1
    __u32 bits = state & 0x1c ? state >> 2 : state >> 16, width = bits & 7;
    __u64 characters = object + (bits & 16 ? layout->ascii : layout->unicode);

    text->length = length > 0xffff ? 0xffff : length;
    text->begin = 0;
    text->width = !(bits & 8) || width > 4 ? 0 : width;
    if (tail && width && text->length * width > room) {
        text->begin = text->length - room / width;
        characters += text->begin * width;
    }
    return characters;
}

static __always_inline void python_name(struct python_scratch *scratch, struct python_walk *walk, __u64 key, __u64 address, __u64 file,
                                        __u64 name) {
    void *codes = walk->which ? (void *)&python_codes_b : (void *)&python_codes_a;
    struct python_code *code = &scratch->code;
    __u64 characters;

    if (bpf_map_lookup_elem(codes, &key))
        return;
    code->key = key;
    code->address = address;
    code->process = walk->process;
    code->tgid = walk->tgid;
    code->first_line = python_half(address + scratch->layout.first_line);
    characters = python_text(&scratch->layout, name, &code->name, PYTHON_NAME_BYTES, 0);
    if (bpf_probe_read_user(code->name_bytes, PYTHON_NAME_BYTES, (void *)characters) &&
        bpf_probe_read_user_str(code->name_bytes, PYTHON_NAME_BYTES, (void *)characters) < 0)
        code->name.width = 0;
    characters = python_text(&scratch->layout, file, &code->file, PYTHON_FILE_BYTES, 1);
    if (bpf_probe_read_user(code->file_bytes, PYTHON_FILE_BYTES, (void *)characters) &&
        bpf_probe_read_user_str(code->file_bytes, PYTHON_FILE_BYTES, (void *)characters) < 0)
        code->file.width = 0;
    bpf_map_update_elem(codes, &key, code, BPF_NOEXIST);
}

static long python_step(__u32 index, struct python_walk *walk) {
    struct python_scratch *scratch = walk->scratch;
    __u32 slot = walk->count;
    struct python_frame *frame;
    __u64 address, instruction, previous, words[3];
    __u8 owner = 0, entry = 0;

    if (!walk->at)
        return 1;
    if (slot >= PYTHON_FRAMES_MAX) {
        walk->status = PYTHON_TRUNCATED;
        return 1;
    }
    frame = &scratch->stack.frames[slot];
    if (bpf_probe_read_user(&previous, sizeof(previous), (void *)(walk->at + scratch->layout.previous)) ||
        bpf_probe_read_user(&owner, sizeof(owner), (void *)(walk->at + scratch->layout.owner))) {
        walk->status = PYTHON_UNREADABLE;
        return 1;
    }
    frame->code = frame->instruction = 0;
    frame->border = 1;
    if (owner < scratch->layout.owner_c) {
        address = python_word(walk->at + scratch->layout.executable) & ~7ULL;
        instruction = python_word(walk->at + scratch->layout.instruction);
        if (bpf_probe_read_user(words, sizeof(words), (void *)(address + scratch->layout.filename))) {
            walk->status = PYTHON_UNREADABLE;
            return 1;
        }
        // co_filename, co_name and co_qualname lie side by side in all versions.
        frame->code = mixed(mixed(mixed(walk->process, address), words[0]), words[2]) | 1;
        frame->instruction = instruction - (address + scratch->layout.code);
        python_name(scratch, walk, frame->code, address, words[0], words[2]);
        if (scratch->layout.is_entry >= 0)
            bpf_probe_read_user(&entry, sizeof(entry), (void *)(walk->at + scratch->layout.is_entry));
        frame->border = entry;
    }
    walk->hash = mixed(mixed(walk->hash, frame->code), ((__u64)frame->border << 32) | frame->instruction);
    walk->count = slot + 1;
    walk->at = previous;
    return 0;
}

// Walks what the current thread runs in Python; returns the key of its stack in python_stacks, 0 when there is none.
static __always_inline __u64 python_sample(struct walk *native, __u64 process, __u32 which, __u32 level) {
    __u32 number = native->python - 1;
    struct python_interpreter *interpreter;
    struct python_scratch *scratch = python_scratch_get(level);
    struct python_walk walk = {.process = process, .tgid = native->tgid, .which = which & 1, .hash = process, .scratch = scratch};
    void *stacks = walk.which ? (void *)&python_stacks_b : (void *)&python_stacks_a;
    __u64 thread;

    if (!native->python || !scratch)
        return 0;
    interpreter = bpf_map_lookup_elem(&python_interpreters, &number);
    if (!interpreter)
        return 0;
    scratch->layout = interpreter->layout;
    thread = python_thread(scratch, interpreter->runtime + native->python_shift, mixed(process, bpf_get_current_pid_tgid()));
    if (!thread)
        return 0;
    walk.at = python_current_frame(&scratch->layout, thread);
    if (!walk.at)
        return 0;
    bpf_loop(PYTHON_FRAMES_MAX + 1, python_step, &walk, 0);
    scratch->stack.count = walk.count;
    scratch->stack.status = walk.status;
    walk.hash |= 1;
    scratch->stack.key = walk.hash;
    if (!bpf_map_lookup_elem(stacks, &walk.hash))
        bpf_map_update_elem(stacks, &walk.hash, &scratch->stack, BPF_NOEXIST);
    return walk.hash;
}
