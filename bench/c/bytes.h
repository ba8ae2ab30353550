/* What room.c and load.c share: growing byte strings and the open-file limit. */
#ifndef BENCH_BYTES_H
#define BENCH_BYTES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct bytes {
    uint8_t *data;
    size_t len, cap;
};

static inline void fail(const char *what)
{
    perror(what);
    exit(2);
}

/* Returns where the next `more` bytes go; the caller adds to `len`. Ends the program without memory. */
static inline uint8_t *reserve(struct bytes *b, size_t more)
{
    if (b->len + more > b->cap) {
        size_t cap = b->cap ? b->cap : 512;
        while (cap < b->len + more)
            cap *= 2;
        b->data = realloc(b->data, cap);
        if (!b->data)
            fail("realloc");
        b->cap = cap;
    }
    return b->data + b->len;
}

static inline void append(struct bytes *b, const void *data, size_t len)
{
    if (len)
        memcpy(reserve(b, len), data, len);
    b->len += len;
}

/* Drops the first `n` bytes. */
static inline void consume_front(struct bytes *b, size_t n)
{
    if (n)
        memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

static inline void release(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

static inline void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (!p)
        fail("calloc");
    return p;
}

static inline void raise_open_file_limit(void)
{
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

#endif
