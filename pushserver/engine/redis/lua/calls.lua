-- Carries out calls that a node made in one turn, each as if it came alone: what one fails with is its own answer.
-- ARGV[3]: the calls, packed: of each its KEYS and its ARGV    Returns the answers, each packed.
local answers = {''}
for _, call in ipairs(cmsgpack.unpack(ARGV[3])) do
  local done, answer = pcall(carry_out, call[1], call[2])
  if not done then
    answer = {'failed', type(answer) == 'table' and answer.err or tostring(answer)}
  end
  answers[#answers + 1] = cmsgpack.pack(answer)
end
answers[1] = ok()
return answers
