-- The ring: which workers are alive, by their beats, and the version that rises with every change.
--
-- KEYS[1] <prefix>:{ring}    hash: `version`, `before` (the version before that one), `nonce`, `at` (ms of the
--                            last beat). Its name is also the channel that changes are told on.
-- KEYS[2] <prefix>:{ring}:b  sorted set: worker -> when it is dead unless it beats again (ms by this clock)
--
-- What is told, and answered, is the whole ring: the version, the one before, the workers. Who knows another
-- version than the one before has missed something and cannot say what was whose in between.

-- The clocks of two masters differ by less than this. A version is a time that runs ahead so far after a
-- failover: it has to be above all that the old master gave, and the new one may not have heard of.
local RING_SKEW_MS = 10000

-- Turn the ring on: its members have changed, or this is another mastership, which may have forgotten the last
-- changes: then nobody can say what came before this version, and that is 0.
local function ring_turn(keys, now, floor, forgetful)
  local before = tonumber(redis.call('HGET', keys[1], 'version') or '0')
  local version = math.max(before + 1, floor + 1, now)
  if forgetful or floor > before then
    before = 0
  end
  redis.call('HSET', keys[1], 'version', whole(version), 'before', whole(before))
  local lines = redis.call('ZRANGE', keys[2], 0, -1)
  table.insert(lines, 1, whole(version) .. ' ' .. whole(before))
  redis.call('SPUBLISH', keys[1], table.concat(lines, '\n'))
  return version
end

-- What the next version has to be above, and whether this is another mastership than the ring was last beaten
-- under.
local function ring_floor(keys, now, known)
  if redis.call('HGET', keys[1], 'nonce') == boot_nonce(now) then
    return known, false
  end
  return math.max(known, now + RING_SKEW_MS), true
end

-- Whether the deadlines say nothing: the clock went back, or nobody was heard in time, the caller included,
-- and then it was Redis that was away.
local function ring_was_away(keys, now, listed)
  local at = redis.call('HGET', keys[1], 'at')
  if at and now < tonumber(at) then
    return true
  end
  return listed and redis.call('ZCOUNT', keys[2], whole(now), '+inf') == 0
end

local function ring_bury(keys, workers)
  local gone = 0
  for _, worker in ipairs(workers) do
    gone = gone + redis.call('ZREM', keys[2], worker)
  end
  return gone > 0
end

local function ring_answer(keys, status, known)
  local kept = redis.call('HMGET', keys[1], 'version', 'before')
  local version = tonumber(kept[1] or '0')
  if version == known then
    return {status, version}
  end
  return {status, version, tonumber(kept[2] or '0'), redis.call('ZRANGE', keys[2], 0, -1)}
end

-- rt1_beat worker ttl_ms known placed: say that `worker` lives, and remove who does not.
--
-- `known` is the version that it knows. `placed` is 1 where it believes to have its place in the ring, and 0
-- where it takes one: that is a change even where it is still listed, as it has owned nothing meanwhile.
-- Answers {1, version}, followed by {before, workers} where that is another version than it knows; or
-- {0, version, …}: it believes to have a place and was removed, and is to let go of all before it takes one.
local function rt1_beat(keys, args)
  local worker, ttl, known, placed = args[1], tonumber(args[2]), tonumber(args[3]), args[4] == '1'
  local now = now_ms()
  local listed = redis.call('ZSCORE', keys[2], worker) ~= false
  local floor, forgetful = ring_floor(keys, now, known)
  local changed = forgetful
  if forgetful or ring_was_away(keys, now, listed) then
    for _, each in ipairs(redis.call('ZRANGE', keys[2], 0, -1)) do
      redis.call('ZADD', keys[2], whole(now + ttl), each)
    end
  end
  redis.call('HSET', keys[1], 'nonce', boot_nonce(now), 'at', whole(now))
  if listed or not placed then
    redis.call('ZADD', keys[2], whole(now + ttl), worker)
    changed = changed or not placed
  end
  changed = ring_bury(keys, redis.call('ZRANGEBYSCORE', keys[2], '-inf', '(' .. whole(now))) or changed
  if changed or known > tonumber(redis.call('HGET', keys[1], 'version') or '0') then
    ring_turn(keys, now, floor, forgetful)
  end
  return ring_answer(keys, (listed or not placed) and 1 or 0, known)
end

-- rt1_bury worker…: remove workers that leave, or that somebody knows to be dead. Answers the version.
local function rt1_bury(keys, args)
  local now = now_ms()
  if ring_bury(keys, args) then
    return ring_turn(keys, now, ring_floor(keys, now, 0))
  end
  return tonumber(redis.call('HGET', keys[1], 'version') or '0')
end

-- rt1_ring known: the ring as rt1_beat answers it, for who is not in it.
local function rt1_ring(keys, args)
  return ring_answer(keys, 1, tonumber(args[1]))
end

redis.register_function{function_name = 'rt1_beat', callback = rt1_beat, flags = {'allow-oom'}}
redis.register_function{function_name = 'rt1_bury', callback = rt1_bury, flags = {'allow-oom'}}
redis.register_function{function_name = 'rt1_ring', callback = rt1_ring, flags = {'no-writes'}}
