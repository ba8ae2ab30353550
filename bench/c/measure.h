/* What load.c measures with: clocks, a latency histogram, markers, and a process's CPU time and memory. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* ---- latency: 32 to 64 linear steps in each power of two, so within 3 % ---- */

enum { BUCKETS = 64 * 64 };

struct histogram {
    uint64_t bucket[BUCKETS], count, max_ns;
};

static inline void record(struct histogram *h, uint64_t ns)
{
    int shift = ns < 64 ? 0 : 58 - __builtin_clzll(ns);
    h->bucket[shift * 64 + (int)(ns >> shift)]++;
    h->count++;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

static inline double percentile_us(const struct histogram *h, double percent)
{
    uint64_t rank = (uint64_t)(percent / 100 * (double)h->count + 0.5), seen = 0;
    for (int i = 0; i < BUCKETS && h->count; i++)
        if ((seen += h->bucket[i]) && seen >= rank)
            return (double)((uint64_t)(i % 64) << (i / 64)) / 1e3;
    return 0;
}

/* ---- markers: ~<16 hex: ns when due>.<4 hex: sender>.<8 hex: sequence>~ ---- */

enum { MARKER_BYTES = 32 };

struct marker {
    uint64_t due_ns;
    uint32_t sender, sequence;
};

static inline void put_hex(uint8_t *to, uint64_t value, int digits)
{
    while (digits--) {
        to[digits] = (uint8_t)"0123456789abcdef"[value & 15];
        value >>= 4;
    }
}

static inline uint64_t get_hex(const uint8_t *from, int digits)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) /* '0'..'9' and 'a'..'f' without a table */
        value = value << 4 | (uint64_t)((from[i] & 15) + 9 * (from[i] >> 6));
    return value;
}

static inline void write_marker(uint8_t *to, struct marker m)
{
    to[0] = to[31] = '~', to[17] = to[22] = '.';
    put_hex(to + 1, m.due_ns, 16);
    put_hex(to + 18, m.sender, 4);
    put_hex(to + 23, m.sequence, 8);
}

static inline bool is_marker(const uint8_t *p)
{
    return p[0] == '~' && p[17] == '.' && p[22] == '.' && p[31] == '~';
}

/* Finds the first marker of a payload. Most lie where the last one lay. */
static inline bool read_marker(const uint8_t *payload, size_t len, struct marker *m)
{
    static size_t hint;
    size_t at = hint;
    if (at + MARKER_BYTES > len || !is_marker(payload + at)) {
        for (at = 0;; at++) {
            const uint8_t *hit = NULL;
            if (at + MARKER_BYTES <= len)
                hit = memchr(payload + at, '~', len - MARKER_BYTES + 1 - at);
            if (!hit)
                return false;
            at = (size_t)(hit - payload);
            if (is_marker(hit))
                break;
        }
        hint = at;
    }
    const uint8_t *p = payload + at;
    *m = (struct marker){get_hex(p + 1, 16), (uint32_t)get_hex(p + 18, 4), (uint32_t)get_hex(p + 23, 8)};
    return true;
}

/* ---- the server ---- */

/* Nanoseconds on a CPU, all living threads: schedstat is exact where stat counts ticks of 10 ms. */
static inline uint64_t process_cpu_ns(int pid)
{
    char path[320], text[64];
    uint64_t sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = pid ? opendir(path) : NULL;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file && fgets(text, sizeof text, file))
            sum += strtoull(text, NULL, 10);
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return sum;
}

static inline long process_rss_kb(int pid)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    if (file && fscanf(file, "%*d %ld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

#endif
