-- A bucket as one number, by Redis' clock: the time at which it is full again (GCRA).
--
-- KEYS[1]  the bucket
-- ARGV     parts        into how many a microsecond is divided, less than 2^32
--          whole, part  after how long a token is back, in microseconds and parts of one
--          fill, fills  after how long an empty bucket is full, likewise, at most 2^50
--          cost, want   the fewest and the most tokens to take, less than 2^32
--
-- Answers how many tokens were taken, and after how long the bucket is full, in
-- microseconds and parts of one.
--
-- Numbers are doubles here, exact up to 2^53: the time in microseconds is less than 2^51
-- until 2041 and 2^52 until 2112, and what is added to it is at most 2^50. Products are of
-- half a number each.

local parts, whole, part = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local fill, fills = tonumber(ARGV[4]), tonumber(ARGV[5])
local cost, want = tonumber(ARGV[6]), tonumber(ARGV[7])

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function add(whole_a, part_a, whole_b, part_b)
  local sum = part_a + part_b
  if sum >= parts then
    return whole_a + whole_b + 1, sum - parts
  end
  return whole_a + whole_b, sum
end

-- After how long so many tokens are back.
local function span(tokens)
  local high, low = math.floor(tokens / 65536), tokens % 65536
  local upper = high * part
  local lower = (upper % parts) * 65536 + low * part
  return tokens * whole + math.floor(upper / parts) * 65536 + math.floor(lower / parts),
    lower % parts
end

-- Full, unless it is known to be full later than now; but no later than if it were empty.
-- So neither another's data nor a clock that was set back shuts anybody out for longer.
local full, fulls = now, 0
local state = redis.pcall('GET', KEYS[1])
if type(state) == 'string' then
  local known, knowns = string.match(state, '^(%d+) (%d+)$')
  known, knowns = tonumber(known), tonumber(knowns)
  if known and known >= now and knowns < parts then
    full, fulls = known, knowns
  end
end
local most, mosts = add(now, 0, fill, fills)
if full > most or (full == most and fulls > mosts) then
  full, fulls = most, mosts
end

-- How many tokens there are. The quotient may be off by one; the products are not.
local room, rooms = most - full, mosts - fulls
if rooms < 0 then
  room, rooms = room - 1, rooms + parts
end
local function fits(tokens)
  local needs, need = span(tokens)
  return needs < room or (needs == room and need <= rooms)
end
local free = math.floor((room + rooms / parts) / (whole + part / parts))
while not fits(free) do
  free = free - 1
end
while fits(free + 1) do
  free = free + 1
end

local taken = 0
if free >= cost then
  taken = math.min(want, free)
end
if taken > 0 then
  full, fulls = add(full, fulls, span(taken))
  local left = math.floor((full - now) / 1000) + 1
  redis.call('SET', KEYS[1], string.format('%.0f %.0f', full, fulls), 'PX',
    string.format('%.0f', left))
end
return { taken, full - now, fulls }
