-- What all functions stand on: the version, the time, and the name of this mastership.
--
-- MINOR rises with every change of any part. A worker loads its library where none is, or an older one, and
-- never in place of a newer one; so a function, once released, keeps its arguments and its answers.
local MINOR = 2

redis.register_function{
  function_name = 'rt1_version',
  flags = {'no-writes'},
  callback = function() return MINOR end,
}

local NONCE_MS = 10

-- Unix time by this node's clock, in microseconds: more than one call takes, so no two calls have the same.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- A whole number as text; `..` alone would round from 15 digits on.
local function whole(number)
  return string.format('%.0f', number)
end

local nonce, nonce_at = nil, 0

-- The name of one mastership of one process: another after a restart, and another after a failover even where
-- the same process was master before. Two INFO cost 11 us, so the answer holds for NONCE_MS: no node is
-- demoted and promoted again within that.
local function boot_nonce(now)
  if nonce == nil or now < nonce_at or now - nonce_at >= NONCE_MS then
    local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
    local replication = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
    nonce = string.sub(run, 1, 16) .. string.sub(replication, 1, 16)
    nonce_at = now
  end
  return nonce
end
