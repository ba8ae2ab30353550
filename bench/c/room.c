/*
 * room - the yardstick: what plain C needs on this machine for the server's hot path.
 *
 * One process, one thread, one edge-triggered epoll set, nothing but libc. Each connection takes the
 * whole path: accept, a real (if minimal) handshake, receive, parse, unmask, append to the room's
 * log, send. The path of the URL is the room; `/echo` answers the sender instead.
 *
 *   cc -O3 -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -o room room.c
 *   room PORT [--uncoalesced]
 *
 * By default a room's log is flushed once per epoll batch, with one send per member whatever number of
 * messages came in; with --uncoalesced every delivery is a send of its own, so that the difference
 * shows what merging is worth.
 *
 * It leaves out everything that is not on that path: fragments, compression, limits, heartbeats,
 * UTF-8 checks. A peer that breaks the protocol is cut without a close frame.
 *
 * Buffers: a connection owns `in` (the tail of an incomplete frame) and `out` (what its socket did
 * not take); a room owns its log, which is empty between two flushes. Out of memory ends the program.
 */
#include "bytes.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS_PER_WAIT = 1024,
    ACCEPTS_PER_BATCH = 256,
    READ_BYTES = 256 * 1024,
    HEAD_BYTES_MAX = 8192,
    MESSAGE_BYTES_MAX = 1 << 20,
    ROOM_TABLE = 4096,
    PATH_BYTES_MAX = 128,
};
enum { OPCODE_CLOSE = 8, OPCODE_PING = 9, OPCODE_PONG = 10 };

struct room {
    struct room *next_in_table, *next_dirty;
    char path[PATH_BYTES_MAX];
    struct connection **members;
    size_t member_count, member_cap;
    struct bytes log;
    bool dirty;
};

struct connection {
    int fd;
    bool upgraded, echo, blocked, dead;
    size_t member_index;
    struct room *room;
    struct connection *next_dead;
    struct bytes in, out;
};

static struct room *rooms[ROOM_TABLE];
static struct room *dirty_rooms;
static struct connection *dead_connections;
static struct bytes replies; /* what the connection being read gets back, sent in one piece */
static uint8_t read_buffer[READ_BYTES];
static bool uncoalesced;
static int epoll_fd, listen_fd;

/* ---- handshake: SHA-1 and base64 of RFC 6455, 4.2.2 ---- */

static uint32_t rotate(uint32_t x, int by) { return x << by | x >> (32 - by); }

static void sha1_block(uint32_t state[5], const uint8_t block[64])
{
    static const uint32_t constants[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++) {
        memcpy(&w[i], block + 4 * i, 4);
        w[i] = ntohl(w[i]);
    }
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t mix = i < 20 ? (b & c) | (~b & d)
                     : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t next = rotate(a, 5) + mix + e + constants[i / 20] + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void accept_token(const char key[24], char token[29])
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t message[128] = {0}, digest[21] = {0};
    memcpy(message, key, 24);
    memcpy(message + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    message[60] = 0x80;
    message[126] = 480 >> 8, message[127] = 480 & 255; /* the length in bits: 60 bytes */
    sha1_block(state, message);
    sha1_block(state, message + 64);
    for (int i = 0; i < 5; i++) {
        uint32_t word = htonl(state[i]);
        memcpy(digest + 4 * i, &word, 4);
    }
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int k = 0; k < 4; k++)
            token[4 * i + k] = alphabet[three >> (18 - 6 * k) & 63];
    }
    token[27] = '=', token[28] = 0;
}

/* ---- connections and rooms ---- */

static void leave_room(struct connection *c)
{
    struct room *room = c->room;
    if (!room)
        return;
    struct connection *last = room->members[--room->member_count];
    room->members[c->member_index] = last;
    last->member_index = c->member_index;
    c->room = NULL;
}

static void cut(struct connection *c)
{
    if (c->dead)
        return;
    c->dead = true;
    leave_room(c);
    close(c->fd);
    c->next_dead = dead_connections; /* freed after the batch: an event of it may still be pending */
    dead_connections = c;
}

static void free_dead(void)
{
    while (dead_connections) {
        struct connection *c = dead_connections;
        dead_connections = c->next_dead;
        release(&c->in);
        release(&c->out);
        free(c);
    }
}

static struct room *find_room(const char *path, size_t len)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)path[i]) * 16777619u;
    struct room **slot = &rooms[hash % ROOM_TABLE];
    for (struct room *room = *slot; room; room = room->next_in_table)
        if (strlen(room->path) == len && !memcmp(room->path, path, len))
            return room;
    struct room *room = zeroed(1, sizeof *room);
    memcpy(room->path, path, len);
    room->next_in_table = *slot;
    return *slot = room;
}

static void join_room(struct connection *c, struct room *room)
{
    if (room->member_count == room->member_cap) {
        room->member_cap = room->member_cap ? room->member_cap * 2 : 8;
        room->members = realloc(room->members, room->member_cap * sizeof *room->members);
        if (!room->members)
            fail("realloc");
    }
    c->room = room;
    c->member_index = room->member_count;
    room->members[room->member_count++] = c;
}

/* Sends, or keeps what the socket does not take; returns false when the connection was cut. */
static bool send_to(struct connection *c, const uint8_t *data, size_t len)
{
    if (c->blocked) {
        append(&c->out, data, len);
        return true;
    }
    ssize_t sent = send(c->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)len)
        return true;
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        cut(c);
        return false;
    }
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    append(&c->out, data + taken, len - taken);
    c->blocked = true;
    return true;
}

static void on_writable(struct connection *c)
{
    size_t done = 0;
    while (done < c->out.len) {
        ssize_t sent = send(c->fd, c->out.data + done, c->out.len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent < 0 && errno != EINTR) {
            cut(c);
            return;
        }
        done += sent < 0 ? 0 : (size_t)sent;
    }
    consume_front(&c->out, done);
    c->blocked = c->out.len > 0;
}

static void flush_room(struct room *room)
{
    /* Downwards: a member that is cut in passing is replaced by the last one, which had its share. */
    for (size_t i = room->member_count; i-- > 0;)
        send_to(room->members[i], room->log.data, room->log.len);
    room->log.len = 0;
}

static void flush_dirty_rooms(void)
{
    for (struct room *room = dirty_rooms; room; room = room->next_dirty) {
        room->dirty = false;
        flush_room(room);
    }
    dirty_rooms = NULL;
}

/* ---- frames ---- */

static void append_frame(struct bytes *to, int opcode, const uint8_t *payload, size_t len)
{
    uint8_t *head = reserve(to, len + 10);
    size_t n = 2;
    head[0] = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        head[1] = (uint8_t)len;
    } else if (len < 65536) {
        head[1] = 126, head[2] = (uint8_t)(len >> 8), head[3] = (uint8_t)len;
        n = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
        n = 10;
    }
    memcpy(head + n, payload, len);
    to->len += n + len;
}

static void unmask(uint8_t *payload, size_t len, const uint8_t mask[4])
{
    uint64_t word, wide;
    memcpy(&wide, mask, 4);
    wide = (wide & 0xffffffffu) | wide << 32;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        memcpy(&word, payload + i, 8);
        word ^= wide;
        memcpy(payload + i, &word, 8);
    }
    for (; i < len; i++)
        payload[i] ^= mask[i & 3];
}

static void on_frame(struct connection *c, int opcode, const uint8_t *payload, size_t len)
{
    if (opcode == OPCODE_CLOSE) {
        append_frame(&replies, OPCODE_CLOSE, payload, len < 2 ? 0 : 2);
        send_to(c, replies.data, replies.len);
        replies.len = 0;
        cut(c);
    } else if (opcode == OPCODE_PING) {
        append_frame(&replies, OPCODE_PONG, payload, len);
    } else if (opcode == OPCODE_PONG) {
        return;
    } else if (c->echo) {
        append_frame(&replies, opcode, payload, len);
    } else {
        struct room *room = c->room;
        append_frame(&room->log, opcode, payload, len);
        if (uncoalesced) {
            flush_room(room);
        } else if (!room->dirty) {
            room->dirty = true;
            room->next_dirty = dirty_rooms;
            dirty_rooms = room;
        }
    }
}

/* Handles the complete frames in `data`; returns the bytes used up, or -1 on a protocol error. */
static ssize_t read_frames(struct connection *c, uint8_t *data, size_t len)
{
    size_t used = 0;
    while (len - used >= 6 && !c->dead) {
        uint8_t *frame = data + used;
        size_t left = len - used, head = 6;
        uint64_t size = frame[1] & 0x7f;
        if (!(frame[1] & 0x80) || !(frame[0] & 0x80) || frame[0] & 0x70)
            return -1;
        if (size == 126) {
            head = 8;
            size = (uint64_t)frame[2] << 8 | frame[3];
        } else if (size == 127) {
            head = 14;
            if (left < head)
                break;
            size = 0;
            for (int i = 2; i < 10; i++)
                size = size << 8 | frame[i];
        }
        if (size > MESSAGE_BYTES_MAX)
            return -1;
        if (left < head + size)
            break;
        unmask(frame + head, size, frame + head - 4);
        used += head + size;
        on_frame(c, frame[0] & 15, frame + head, size);
    }
    return (ssize_t)used;
}

/* Returns the bytes of the request, 0 while it is incomplete, -1 when it is no WebSocket upgrade. */
static ssize_t read_handshake(struct connection *c, const char *data, size_t len)
{
    const char *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end)
        return len > HEAD_BYTES_MAX ? -1 : 0;
    const char *path = data + 4, *path_end = memchr(data, '\r', len);
    if (memcmp(data, "GET /", 5) || !(path_end = memchr(path, ' ', (size_t)(path_end - path))))
        return -1;
    size_t path_len = (size_t)(path_end - path);
    const char *key = NULL;
    for (const char *line = data; (line = memmem(line, (size_t)(end - line), "\r\n", 2));) {
        line += 2;
        if (end - line > 43 && !strncasecmp(line, "Sec-WebSocket-Key: ", 19))
            key = line + 19;
    }
    if (!key || path_len >= PATH_BYTES_MAX)
        return -1;
    char token[29], answer[160];
    accept_token(key, token);
    int n = snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", token);
    c->upgraded = true;
    c->echo = path_len == 5 && !memcmp(path, "/echo", 5);
    if (!c->echo)
        join_room(c, find_room(path, path_len));
    append(&replies, answer, (size_t)n);
    return end + 4 - data;
}

/* Feeds what arrived to the handshake or the frames; keeps the incomplete rest. */
static void consume(struct connection *c, uint8_t *data, size_t len)
{
    ssize_t used = 0;
    if (!c->upgraded)
        used = read_handshake(c, (const char *)data, len);
    if (c->upgraded && used >= 0) {
        ssize_t frames = read_frames(c, data + used, len - (size_t)used);
        used = frames < 0 ? -1 : used + frames;
    }
    if (c->dead)
        return;
    if (used < 0) {
        replies.len = 0;
        cut(c);
        return;
    }
    if (replies.len && !send_to(c, replies.data, replies.len)) {
        replies.len = 0;
        return;
    }
    replies.len = 0;
    size_t rest = len - (size_t)used;
    if (data == c->in.data) {
        memmove(data, data + used, rest);
        c->in.len = rest;
    } else if (rest) {
        append(&c->in, data + used, rest);
    }
    if (!rest)
        release(&c->in);
}

static void on_readable(struct connection *c, bool until_empty)
{
    for (;;) {
        uint8_t *into = read_buffer;
        size_t room = READ_BYTES;
        if (c->in.len) {
            into = reserve(&c->in, READ_BYTES / 4);
            room = c->in.cap - c->in.len;
        }
        ssize_t got = recv(c->fd, into, room, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            cut(c);
            return;
        }
        if (into == read_buffer) {
            consume(c, into, (size_t)got);
        } else {
            c->in.len += (size_t)got;
            consume(c, c->in.data, c->in.len);
        }
        /* A short read emptied the socket, unless the peer's end of stream is behind it. */
        if (c->dead || ((size_t)got < room && !until_empty))
            return;
    }
}

/* ---- the loop ---- */

static void accept_some(void)
{
    for (int i = 0; i < ACCEPTS_PER_BATCH; i++) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *c = zeroed(1, sizeof *c);
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
            fail("epoll_ctl");
    }
}

static void listen_on(int port)
{
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listen_fd, (struct sockaddr *)&address, sizeof address) || listen(listen_fd, 4096))
        fail("listen");
    struct epoll_event event = {.events = EPOLLIN}; /* level-triggered: accepts are bounded per batch */
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &event))
        fail("epoll_ctl");
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "--uncoalesced"))) {
        fprintf(stderr, "usage: room PORT [--uncoalesced]\n");
        return 2;
    }
    uncoalesced = argc == 3;
    signal(SIGPIPE, SIG_IGN);
    raise_open_file_limit();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_on(atoi(argv[1]));
    for (;;) {
        static struct epoll_event events[EVENTS_PER_WAIT];
        int count = epoll_wait(epoll_fd, events, EVENTS_PER_WAIT, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                accept_some();
                continue;
            }
            if (!c->dead && events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                on_readable(c, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
            if (!c->dead && c->blocked && events[i].events & EPOLLOUT)
                on_writable(c);
        }
        flush_dirty_rooms();
        free_dead();
    }
}
