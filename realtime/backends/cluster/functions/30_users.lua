-- Who is connected where, the limit of connections over all workers, and revoked tokens.
--
-- A user is a sorted set (member `worker/number`, score arrival in microseconds) and beside it a hash of the
-- workers (`seen in ms` `connections there`). So a limit is judged without looking at all connections, and what
-- a worker that died has left behind is found by its worker alone.

do
  local BATCH = 500          -- members an argument list takes at once
  local CLEANED_MAX = 1000   -- above so many connections a user's set is not compared with what a worker has
  local VICTIMS_MAX = 1000   -- closed at once; the next call finds the rest
  local REVOCATIONS_MAX = 100000
  local EXPIRED_BATCH = 100  -- forgotten with each new revocation

  local function now_us()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000000 + tonumber(time[2])
  end

  local function remove(key, members)
    for first = 1, #members, BATCH do
      redis.call('ZREM', key, unpack(members, first, math.min(first + BATCH - 1, #members)))
    end
  end

  -- The members of `user` that are `worker`'s, but those in `kept`.
  local function others_of(user, worker, kept)
    local prefix, found = worker .. '/', {}
    for _, member in ipairs(redis.call('ZRANGE', user, 0, -1)) do
      if string.sub(member, 1, #prefix) == prefix and not kept[member] then
        found[#found + 1] = member
      end
    end
    return found
  end

  -- Drop the connections of workers that are not in the ring (where that is known), or not seen for `ttl_ms`.
  local function bury(user, workers, ring, ttl_ms, now_ms)
    local alive = {}
    for worker in string.gmatch(ring, '%S+') do
      alive[worker] = true
    end
    local entries = redis.call('HGETALL', workers)
    for i = 1, #entries, 2 do
      local seen = tonumber(string.match(entries[i + 1], '^%d+'))
      if (ring ~= '-' and not alive[entries[i]]) or seen < now_ms - ttl_ms then
        remove(user, others_of(user, entries[i], {}))
        redis.call('HDEL', workers, entries[i])
      end
    end
  end

  -- KEYS: the user's set, its workers.
  -- ARGV: worker, connections there, all of them named (1) or just what changed (0), limit, reject|replace,
  --       ttl in ms, workers in the ring (by spaces; `-` where unknown; empty: not told yet), how many came,
  --       their numbers, the numbers of those that left.
  -- Returns the members that are one too many, which count no longer; `ring` where it has to be told for that.
  local function arrive(keys, args)
    local user, workers, worker = keys[1], keys[2], args[1]
    local here, all, limit = tonumber(args[2]), args[3] == '1', tonumber(args[4])
    local ttl_ms, ring, coming = tonumber(args[6]), args[7], tonumber(args[8])
    local now, gone, kept = now_us(), {}, {}
    for i = 9 + coming, #args do
      gone[#gone + 1] = worker .. '/' .. args[i]
    end
    remove(user, gone)
    for i = 1, coming do
      local member = worker .. '/' .. args[8 + i]
      kept[member] = true
      redis.call('ZADD', user, 'NX', whole(now + i), member)
    end
    local count = redis.call('ZCARD', user)
    if all and count > here and count <= CLEANED_MAX then
      remove(user, others_of(user, worker, kept))
      count = redis.call('ZCARD', user)
    end
    local now_ms = math.floor(now / 1000)
    if here > 0 then
      redis.call('HSET', workers, worker, whole(now_ms) .. ' ' .. here)
      redis.call('PEXPIRE', user, ttl_ms)
      redis.call('PEXPIRE', workers, ttl_ms)
    else
      redis.call('HDEL', workers, worker)
    end
    if coming == 0 or count <= limit then
      return {}
    end
    if ring == '' then
      return {'ring'}
    end
    bury(user, workers, ring, ttl_ms, now_ms)
    local over = math.min(redis.call('ZCARD', user) - limit, VICTIMS_MAX)
    if over <= 0 then
      return {}
    end
    local victims
    if args[5] == 'replace' then
      victims = redis.call('ZRANGE', user, 0, over - 1)
    else
      victims = redis.call('ZRANGE', user, -over, -1)
    end
    remove(user, victims)
    return victims
  end

  -- KEYS: a user's workers. ARGV: ttl in ms. Returns worker, connections, worker, ...
  local function find(keys, args)
    local now_ms, found = math.floor(now_us() / 1000), {}
    local entries = redis.call('HGETALL', keys[1])
    for i = 1, #entries, 2 do
      local seen, here = string.match(entries[i + 1], '^(%d+) (%d+)$')
      if tonumber(seen) >= now_ms - tonumber(args[1]) then
        found[#found + 1] = entries[i]
        found[#found + 1] = tonumber(here)
      end
    end
    return found
  end

  -- KEYS: the revocations, when each ends. ARGV: channel, name, tokens issued before (ms), kept for (ms).
  -- Revoking twice goes as far as the further of both. Returns when it ends (ms); all workers are told.
  local function revoke(keys, args)
    local list, ends, channel, name = keys[1], keys[2], args[1], args[2]
    local now_ms = math.floor(now_us() / 1000)
    local over = redis.call('ZRANGEBYSCORE', ends, '-inf', whole(now_ms), 'LIMIT', 0, EXPIRED_BATCH)
    if #over > 0 then
      redis.call('ZREM', ends, unpack(over))
      redis.call('HDEL', list, unpack(over))
    end
    local before, until_ms = tonumber(args[3]), now_ms + tonumber(args[4])
    local known = redis.call('HGET', list, name)
    if known then
      local known_before, known_until = string.match(known, '^(%d+) (%d+)$')
      before = math.max(before, tonumber(known_before))
      until_ms = math.max(until_ms, tonumber(known_until))
    elseif redis.call('HLEN', list) >= REVOCATIONS_MAX then
      return redis.error_reply('FULL ' .. REVOCATIONS_MAX .. ' revocations are kept already')
    end
    local value = whole(before) .. ' ' .. whole(until_ms)
    redis.call('HSET', list, name, value)
    redis.call('ZADD', ends, whole(until_ms), name)
    local last = tonumber(redis.call('ZRANGE', ends, -1, -1, 'WITHSCORES')[2])
    redis.call('PEXPIREAT', list, whole(last))
    redis.call('PEXPIREAT', ends, whole(last))
    redis.call('SPUBLISH', channel, value .. ' ' .. name)
    return until_ms
  end

  redis.register_function('rt1_arrive', arrive)
  redis.register_function{
    function_name = 'rt1_find', callback = find, flags = {'no-writes'}
  }
  redis.register_function('rt1_revoke', revoke)
end
