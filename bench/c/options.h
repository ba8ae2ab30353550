/* load.c's command line; the head of load.c says what each option means. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PORTS_MAX = 16 };
enum { RING = 1 << 13 }; /* messages of a closed-loop sender that may be under way */
enum mode { FANOUT, ECHO, IDLE, HANDSHAKES };

static struct {
    enum mode mode;
    const char *mode_name, *path, *init, *ready, *message;
    int ports[PORTS_MAX], port_count, pid;
    uint32_t connections, rooms, publishers, window, stopped, concurrency;
    size_t size;
    double rate, seconds, warmup, drain, nap;
    bool binary, far;
} option = {.path = "/", .message = "{\"m\":\"%m\",\"pad\":\"%P\"}", .connections = 100, .rooms = 1,
            .publishers = 1, .window = 1, .concurrency = 64, .size = 128, .seconds = 5, .warmup = 1, .drain = 5};

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void parse_options(int argc, char **argv)
{
    static const char *const modes[] = {"fanout", "echo", "idle", "handshakes"};
    static const struct option names[] = {
        {"path", 1, 0, 'p'}, {"init", 1, 0, 'i'}, {"ready", 1, 0, 'y'}, {"message", 1, 0, 'm'},
        {"connections", 1, 0, 'n'}, {"rooms", 1, 0, 'r'}, {"publishers", 1, 0, 'P'}, {"window", 1, 0, 'w'},
        {"rate", 1, 0, 'R'}, {"stopped", 1, 0, 'S'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'W'},
        {"drain", 1, 0, 'D'}, {"nap", 1, 0, 'N'}, {"size", 1, 0, 's'}, {"concurrency", 1, 0, 'c'}, {"pid", 1, 0, 'I'},
        {"binary", 0, 0, 'b'}, {"far", 0, 0, 'f'}, {0, 0, 0, 0}};
    int mode = -1;
    for (int i = 0; argc > 2 && i < 4; i++)
        if (!strcmp(argv[1], modes[i]))
            mode = i;
    if (mode < 0)
        die("usage: load fanout|echo|idle|handshakes PORT [options]; the head of load.c lists them");
    option.mode = (enum mode)mode;
    option.mode_name = modes[mode];
    for (char *at = argv[2]; at && option.port_count < PORTS_MAX; at = strchr(at, ',')) {
        at += *at == ',';
        option.ports[option.port_count++] = atoi(at);
    }
    optind = 3;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (c) {
        case 'p': option.path = optarg; break;
        case 'i': option.init = optarg; break;
        case 'y': option.ready = optarg; break;
        case 'm': option.message = optarg; break;
        case 'n': option.connections = (uint32_t)atoi(optarg); break;
        case 'r': option.rooms = (uint32_t)atoi(optarg); break;
        case 'P': option.publishers = (uint32_t)atoi(optarg); break;
        case 'w': option.window = (uint32_t)atoi(optarg); break;
        case 'R': option.rate = atof(optarg); break;
        case 'S': option.stopped = (uint32_t)atoi(optarg); break;
        case 't': option.seconds = atof(optarg); break;
        case 'W': option.warmup = atof(optarg); break;
        case 'D': option.drain = atof(optarg); break;
        case 'N': option.nap = atof(optarg); break;
        case 's': option.size = (size_t)atol(optarg); break;
        case 'c': option.concurrency = (uint32_t)atoi(optarg); break;
        case 'I': option.pid = atoi(optarg); break;
        case 'f': option.far = true; break;
        case 'b': option.binary = true; break;
        default: exit(2);
        }
    if (option.mode == HANDSHAKES)
        option.connections = option.concurrency;
    if (!option.connections || option.connections > 60000 || !option.rooms || option.window > RING ||
        option.publishers > option.connections || option.stopped + option.publishers > option.connections)
        die("a number is out of bounds: 1 to 60000 connections, windows up to %d", RING);
}

#endif
