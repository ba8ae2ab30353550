/*
 * load - a lean WebSocket load generator: one thread, one edge-triggered epoll set, nothing but libc.
 *
 *   cc -O3 -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -o load load.c
 *   load MODE PORT[,PORT…] [options]  the server listens on 127.0.0.1:PORT; each room's connections are
 *                                     dealt out to several ports in turn, its first ones to the first
 *
 *   fanout      publishers send, every member of the publisher's room receives
 *   echo        every connection keeps --window requests under way, each answered by its marker
 *   idle        opens the connections and holds them: memory and cost of a handshake
 *   handshakes  opens, sees the 101, resets, opens again: --concurrency at a time
 *
 * Connection d belongs to room d % rooms; publisher p is connection p and sends to room p % rooms.
 * Templates (--path, --init, --message) know %d the connection, %r the room, %m the marker (measure.h;
 * it survives any re-encoding that leaves ASCII alone), %P padding up to --size bytes, %% a percent sign.
 *
 *   --path T --init T --ready TEXT --message T   what to say; ready = a message that contains TEXT
 *   --connections N --rooms K --publishers P     100, 1, 1
 *   --window W | --rate R      closed loop of W messages (a fan-out message ends with its last receiver),
 *                              or R messages/s a sender on a fixed schedule; latency runs from the
 *                              moment a message was due, so a stall is not hidden
 *   --far                      fanout: latency only of those on another port than the sender
 *   --stopped N                fanout: the last N connections never read again once they are ready
 *   --seconds T --warmup T     5, 1
 *   --drain T                  longest wait for stragglers after the last message: 5
 *   --nap US                   rest between looks at the sockets: frames are then picked up in batches,
 *                              and the server does not pay for waking this process once per frame
 *   --size BYTES --concurrency C --pid PID --binary
 *
 * The report is one JSON object. Every delivery is counted; per receiver and sender the sequence must
 * count up by one: a step back is `duplicated`, and whatever did not come in the end is `lost`.
 * Exit status: 0 clean; 1 lost, duplicated, cut or stalled; 2 usage or connection failure.
 */
#include "bytes.h"
#include "measure.h"
#include "options.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* A key and the token that a server must answer it with; one pair for all connections. */
#define KEY "x3JJHMbDL1EzLkh9GBhXDw=="
#define ACCEPT_TOKEN "HSmrc0sMlYUkAGmm5OPpG2HaGWk="

enum { READ_BYTES = 1 << 18, RSS_SAMPLES = 20, EVENTS_PER_LOOK = 256 };
enum { STALL_S = 5, CONNECT_S = 60 };
enum state { CLOSED, CONNECTING, HANDSHAKE, JOINING, READY };

struct connection {
    int fd;
    uint8_t state;
    bool stopped;               /* never reads again once ready */
    bool has_room;              /* a message of it is complete: it may send again */
    uint32_t number, room;
    uint32_t sent, under_way;   /* as a sender */
    uint16_t *remaining;        /* fan-out, closed loop: receivers still missing, by sequence % RING */
    uint64_t next_due;
    struct bytes in, out;
};

static struct {
    uint64_t delivered, duplicated, foreign, cut, stopped_cut, measured, measured_sent, refused;
} count;

static struct connection *connections;
static uint32_t *next_sequence; /* [receiver][sender / rooms] */
static uint32_t *receivers;     /* [room]: members that read */
static uint32_t opened, ready_count, under_handshake, senders_per_room;
static bool sending, measuring, closing, any_has_room;
static int epoll_fd;
static uint64_t last_arrival;
static uint8_t read_buffer[READ_BYTES];
static struct histogram latency;
static struct bytes scratch;

/* ---- templates ---- */

static void expand(struct bytes *out, const char *text, const struct connection *c, uint64_t due)
{
    size_t begin = out->len, pad_at = SIZE_MAX;
    for (const char *p = text; *p; p++) {
        char number[12];
        if (*p != '%' || !p[1]) {
            append(out, p, 1);
            continue;
        }
        switch (*++p) {
        case 'd': append(out, number, (size_t)snprintf(number, sizeof number, "%u", c->number)); break;
        case 'r': append(out, number, (size_t)snprintf(number, sizeof number, "%u", c->room)); break;
        case 'P': pad_at = out->len; break;
        case 'm':
            write_marker(reserve(out, MARKER_BYTES), (struct marker){due, c->number, c->sent});
            out->len += MARKER_BYTES;
            break;
        default: append(out, p, 1);
        }
    }
    size_t have = out->len - begin;
    if (pad_at != SIZE_MAX && have < option.size) {
        size_t pad = option.size - have;
        reserve(out, pad);
        memmove(out->data + pad_at + pad, out->data + pad_at, out->len - pad_at);
        memset(out->data + pad_at, 'x', pad);
        out->len += pad;
    }
}

/* ---- sending ---- */

static void drop(struct connection *c)
{
    if (c->state == CLOSED)
        return;
    if (c->state == READY)
        ready_count--;
    else
        under_handshake--;
    if (!closing && option.mode != HANDSHAKES && !c->stopped)
        count.cut++;
    close(c->fd);
    c->state = CLOSED;
    c->in.len = c->out.len = 0;
}

static void flush_out(struct connection *c)
{
    size_t done = 0;
    while (done < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + done, c->out.len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR) {
            drop(c);
            return;
        }
        done += n < 0 ? 0 : (size_t)n;
    }
    consume_front(&c->out, done);
}

static void queue_frame(struct connection *c, int opcode, const uint8_t *payload, size_t len)
{
    static uint32_t seed = 0x9e3779b9;
    seed = seed * 1664525 + 1013904223;
    uint8_t mask[4], *w = reserve(&c->out, len + 14);
    memcpy(mask, &seed, 4);
    *w++ = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        *w++ = (uint8_t)(0x80 | len);
    } else if (len < 65536) {
        *w++ = 0x80 | 126, *w++ = (uint8_t)(len >> 8), *w++ = (uint8_t)len;
    } else {
        *w++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            *w++ = (uint8_t)((uint64_t)len >> shift);
    }
    memcpy(w, mask, 4);
    for (size_t i = 0; i < len; i++)
        w[4 + i] = payload[i] ^ mask[i & 3];
    c->out.len = (size_t)(w + 4 + len - c->out.data);
}

static void queue_message(struct connection *c, uint64_t due)
{
    scratch.len = 0;
    expand(&scratch, option.message, c, due);
    queue_frame(c, option.binary ? 2 : 1, scratch.data, scratch.len);
    if (c->remaining)
        c->remaining[c->sent % RING] = (uint16_t)receivers[c->room];
    c->sent++;
    c->under_way++;
    count.measured_sent += measuring;
}

static uint32_t sender_count(void)
{
    return option.mode == FANOUT ? option.publishers : option.mode == ECHO ? option.connections : 0;
}

static void top_up(struct connection *c)
{
    if (!sending || option.rate > 0 || c->state != READY || c->number >= sender_count())
        return;
    for (uint64_t now = now_ns(); c->under_way < option.window;)
        queue_message(c, now);
    flush_out(c);
}

/* Sends what is due by now; returns when the next message is. */
static uint64_t send_due(uint64_t now)
{
    uint64_t next = UINT64_MAX, step = (uint64_t)(1e9 / option.rate);
    for (uint32_t i = 0; i < sender_count(); i++) {
        struct connection *c = &connections[i];
        bool any = false;
        for (; c->next_due <= now && c->state == READY; c->next_due += step, any = true)
            queue_message(c, c->next_due);
        if (any)
            flush_out(c);
        if (c->state == READY && c->next_due < next)
            next = c->next_due;
    }
    return next;
}

/* ---- receiving ---- */

static int port_of(const struct connection *c)
{
    return option.ports[c->number / option.rooms % option.port_count];
}

static void on_marker(struct connection *c, struct marker m, uint64_t now)
{
    struct connection *from = m.sender < sender_count() ? &connections[m.sender] : NULL;
    if (!from || m.sequence >= from->sent || (option.mode == ECHO ? from != c : from->room != c->room)) {
        count.foreign++;
        return;
    }
    size_t column = option.mode == ECHO ? 0 : m.sender / option.rooms;
    uint32_t *next = &next_sequence[c->number * senders_per_room + column];
    if (m.sequence < *next) {
        count.duplicated++;
        return;
    }
    *next = m.sequence + 1;
    count.delivered++;
    last_arrival = now;
    if (measuring) {
        count.measured++;
        if (!option.far || port_of(c) != port_of(from))
            record(&latency, now > m.due_ns ? now - m.due_ns : 0);
    }
    if (option.mode == ECHO) {
        from->under_way--;
    } else if (from->remaining && --from->remaining[m.sequence % RING] == 0) {
        from->under_way--;
        from->has_room = true;
        any_has_room = true;
    }
}

static void become_ready(struct connection *c)
{
    c->state = READY;
    under_handshake--;
    ready_count++;
    c->stopped = c->number >= option.connections - option.stopped;
}

static void on_message(struct connection *c, const uint8_t *payload, size_t len, uint64_t now)
{
    if (c->state == JOINING) {
        if (memmem(payload, len, option.ready, strlen(option.ready)))
            become_ready(c);
        return;
    }
    struct marker m;
    if (read_marker(payload, len, &m))
        on_marker(c, m, now);
}

static size_t on_frames(struct connection *c, const uint8_t *data, size_t len, uint64_t now)
{
    size_t used = 0;
    while (len - used >= 2 && c->state != CLOSED) {
        const uint8_t *frame = data + used;
        size_t head = 2;
        uint64_t size = frame[1];
        if (size == 126) {
            head = 4;
            if (len - used < head)
                break;
            size = (uint64_t)frame[2] << 8 | frame[3];
        } else if (size == 127) {
            head = 10;
            if (len - used < head)
                break;
            size = 0;
            for (int i = 2; i < 10; i++)
                size = size << 8 | frame[i];
        }
        if (len - used - head < size)
            break;
        used += head + size;
        int opcode = frame[0] & 15;
        if (opcode == 1 || opcode == 2) {
            on_message(c, frame + head, size, now);
        } else if (opcode == 9) {
            queue_frame(c, 10, frame + head, size);
        } else if (opcode == 8) {
            drop(c);
        }
    }
    return used;
}

static size_t on_handshake(struct connection *c, const uint8_t *data, size_t len)
{
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = (size_t)(end - data) + 4;
    if (memcmp(data, "HTTP/1.1 101 ", 13) || !memmem(data, head, ACCEPT_TOKEN, strlen(ACCEPT_TOKEN))) {
        if (!count.refused++)
            fprintf(stderr, "load: handshake refused: %.*s\n", (int)(head < 300 ? head : 300), data);
        drop(c);
        return len;
    }
    if (option.init) {
        scratch.len = 0;
        expand(&scratch, option.init, c, 0);
        queue_frame(c, option.binary ? 2 : 1, scratch.data, scratch.len);
    }
    if (option.ready)
        c->state = JOINING;
    else
        become_ready(c);
    return head;
}

static void on_readable(struct connection *c, bool until_end)
{
    while (c->state != CLOSED && !(c->state == READY && c->stopped)) {
        size_t carry = c->in.len;
        if (carry >= READ_BYTES / 2)
            die("a frame of more than %d bytes", READ_BYTES / 2);
        if (carry)
            memcpy(read_buffer, c->in.data, carry);
        ssize_t n = recv(c->fd, read_buffer + carry, READ_BYTES - carry, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            drop(c);
            return;
        }
        size_t total = carry + (size_t)n, used = 0;
        if (c->state == HANDSHAKE)
            used = on_handshake(c, read_buffer, total);
        if (c->state == JOINING || c->state == READY)
            used += on_frames(c, read_buffer + used, total - used, now_ns());
        if (c->state == CLOSED)
            return;
        c->in.len = 0;
        append(&c->in, read_buffer + used, total - used);
        if (option.mode == ECHO)
            top_up(c);
        if (c->out.len)
            flush_out(c);
        /* A short read emptied the socket, unless the end of the stream is behind it. */
        if (total < READ_BYTES && !until_end)
            return;
    }
}

/* ---- connecting ---- */

static void start(struct connection *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port_of(c)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    c->state = CONNECTING;
    under_handshake++;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static void request_upgrade(struct connection *c)
{
    static const char lines[] = " HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                                "Connection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"
                                "Sec-WebSocket-Version: 13\r\n\r\n";
    append(&c->out, "GET ", 4);
    expand(&c->out, option.path, c, 0);
    append(&c->out, lines, sizeof lines - 1);
    c->state = HANDSHAKE;
    flush_out(c);
}

static void on_event(struct connection *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP))
            die("cannot connect to port %d", port_of(c));
        if (events & EPOLLOUT)
            request_upgrade(c);
    } else if (events & EPOLLOUT && c->out.len) {
        flush_out(c);
    }
    if (c->stopped && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) && c->state == READY) {
        count.stopped_cut++;
        drop(c);
    } else if (c->state != CLOSED && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        on_readable(c, events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
    }
    if (option.mode == HANDSHAKES && c->state == READY) {
        /* A reset leaves no TIME_WAIT behind, of which there is room for 28,000. */
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
        drop(c);
        count.measured += measuring;
        last_arrival = now_ns();
        if (sending)
            start(c);
    }
}

static void pump(uint64_t wait_ns)
{
    static struct epoll_event events[EVENTS_PER_LOOK];
    bool scheduled = sending && option.rate > 0;
    if (scheduled) {
        uint64_t now = now_ns(), next = send_due(now);
        if (next < now + wait_ns)
            wait_ns = next > now ? next - now : 0;
    }
    if (option.nap > 0 && sending) {
        uint64_t nap = (uint64_t)(option.nap * 1e3);
        nap = nap < wait_ns ? nap : wait_ns;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = (long)nap}, NULL);
        wait_ns -= nap;
    }
    struct timespec wait = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
    int n = epoll_pwait2(epoll_fd, events, EVENTS_PER_LOOK, &wait, NULL);
    for (int i = 0; i < n; i++) {
        on_event(events[i].data.ptr, events[i].events);
        if (scheduled && i % 16 == 15)
            send_due(now_ns()); /* a full batch of reads must not delay what is due */
    }
    for (uint32_t i = 0; any_has_room && i < option.publishers; i++)
        if (connections[i].has_room) {
            connections[i].has_room = false;
            top_up(&connections[i]);
        }
    any_has_room = false;
}

static double connect_all(void)
{
    uint64_t begin = now_ns(), limit = begin + CONNECT_S * 1000000000ull;
    while (ready_count < option.connections && now_ns() < limit && !count.cut) {
        while (opened < option.connections && under_handshake < option.concurrency)
            start(&connections[opened++]);
        pump(50000000);
    }
    if (ready_count < option.connections)
        die("%u of %u connections became ready", ready_count, option.connections);
    return (double)(now_ns() - begin) / 1e9;
}

/* ---- the run and its report ---- */

struct figures {
    double connect_s, seconds;
    uint64_t connect_cpu_ns, cpu_ns, own_cpu_ns;
    long rss_empty_kb, rss_connected_kb, rss_kb[RSS_SAMPLES + 1];
    int rss_samples;
    bool stalled;
};

static void begin_sending(uint64_t now)
{
    sending = true;
    last_arrival = now;
    for (uint32_t i = 0; i < sender_count(); i++) {
        /* Spread over the first interval: scheduled senders must not fire all at once. */
        double part = option.rate > 0 ? 1e9 / option.rate * i / sender_count() : 0;
        connections[i].next_due = now + (uint64_t)part;
        top_up(&connections[i]);
    }
    for (uint32_t i = 0; option.mode == HANDSHAKES && i < option.concurrency; i++)
        start(&connections[i]);
}

static uint64_t expected(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < sender_count(); i++)
        sum += (uint64_t)connections[i].sent * (option.mode == ECHO ? 1 : receivers[connections[i].room]);
    return sum;
}

static void run(struct figures *f)
{
    uint64_t start_ns = now_ns(), from = start_ns + (uint64_t)(option.warmup * 1e9);
    uint64_t span = (uint64_t)(option.seconds * 1e9), until = from + span, cpu = 0, own = 0;
    begin_sending(start_ns);
    for (uint64_t now; (now = now_ns()) < until && !f->stalled;) {
        if (!measuring && now >= from) {
            cpu = process_cpu_ns(option.pid);
            own = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
            from = now_ns();
            measuring = true;
        }
        if (measuring && now >= from + span * (uint64_t)f->rss_samples / RSS_SAMPLES)
            f->rss_kb[f->rss_samples++] = process_rss_kb(option.pid);
        f->stalled = option.mode != IDLE && now > last_arrival + STALL_S * 1000000000ull;
        pump(10000000);
    }
    f->seconds = (double)(now_ns() - from) / 1e9;
    f->cpu_ns = process_cpu_ns(option.pid) - cpu;
    f->own_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
    measuring = sending = false;
    uint64_t limit = now_ns() + (uint64_t)(option.drain * 1e9);
    while (count.delivered < expected() && now_ns() < limit)
        pump(10000000);
    closing = true;
}

static int report(const struct figures *f)
{
    uint64_t due = expected(), lost = due > count.delivered ? due - count.delivered : 0;
    double cpu_s = (double)f->cpu_ns / 1e9, connect_cpu_s = (double)f->connect_cpu_ns / 1e9;
    bool churn = option.mode == HANDSHAKES;
    printf("{\"mode\":\"%s\",\"connections\":%u,\"seconds\":%.3f", option.mode_name, option.connections, f->seconds);
    printf(",\"sent_per_s\":%.0f,\"delivered\":%lu,\"expected\":%lu,\"lost\":%lu,\"duplicated\":%lu",
           (double)count.measured_sent / f->seconds, count.delivered, due, lost, count.duplicated);
    printf(",\"foreign\":%lu,\"cut\":%lu,\"stopped_cut\":%lu,\"refused\":%lu,\"stalled\":%s", count.foreign,
           count.cut, count.stopped_cut, count.refused, f->stalled ? "true" : "false");
    printf(",\"per_s\":%.0f", (double)count.measured / f->seconds);
    printf(",\"latency_us\":{\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", percentile_us(&latency, 50),
           percentile_us(&latency, 99), percentile_us(&latency, 99.9), (double)latency.max_ns / 1e3);
    printf(",\"generator_cpu_share\":%.3f", (double)f->own_cpu_ns / 1e9 / f->seconds);
    if (option.pid) {
        printf(",\"server_cpu_s\":%.4f,\"server_cpu_share\":%.3f,\"per_cpu_s\":%.0f", cpu_s, cpu_s / f->seconds,
               cpu_s > 0 ? (double)count.measured / cpu_s : 0);
        if (!churn)
            printf(",\"handshakes_per_s\":%.0f,\"handshakes_per_cpu_s\":%.0f", option.connections / f->connect_s,
                   connect_cpu_s > 0 ? option.connections / connect_cpu_s : 0);
        printf(",\"rss_empty_kb\":%ld,\"rss_connected_kb\":%ld,\"rss_per_connection_bytes\":%.0f,\"rss_kb\":[",
               f->rss_empty_kb, f->rss_connected_kb,
               churn ? 0 : (double)(f->rss_connected_kb - f->rss_empty_kb) * 1024 / option.connections);
        for (int i = 0; i < f->rss_samples; i++)
            printf("%s%ld", i ? "," : "", f->rss_kb[i]);
        printf("]");
    }
    printf("}\n");
    return lost || count.duplicated || count.cut || count.refused || f->stalled;
}

static void prepare(void)
{
    raise_open_file_limit();
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    senders_per_room = option.mode == FANOUT ? (option.publishers + option.rooms - 1) / option.rooms : 1;
    connections = zeroed(option.connections, sizeof *connections);
    receivers = zeroed(option.rooms, sizeof *receivers);
    next_sequence = zeroed((size_t)option.connections * senders_per_room, sizeof *next_sequence);
    for (uint32_t i = 0; i < option.connections; i++) {
        struct connection *c = &connections[i];
        c->number = i;
        c->room = i % option.rooms;
        receivers[c->room] += i < option.connections - option.stopped;
        if (option.mode == FANOUT && option.rate <= 0 && i < option.publishers)
            c->remaining = zeroed(RING, sizeof *c->remaining);
    }
}

int main(int argc, char **argv)
{
    struct figures figures = {0};
    parse_options(argc, argv);
    prepare();
    figures.rss_empty_kb = process_rss_kb(option.pid);
    uint64_t cpu = process_cpu_ns(option.pid);
    if (option.mode != HANDSHAKES)
        figures.connect_s = connect_all();
    figures.connect_cpu_ns = process_cpu_ns(option.pid) - cpu;
    figures.rss_connected_kb = process_rss_kb(option.pid);
    run(&figures);
    return report(&figures);
}
