// What drivers of libraries for Node.js share; report.py says what they print.
export const QUESTION = 'For how long are the books of a cart reserved? Answer in one sentence.';
export const MODEL = process.env.INFBOX_CLIENT_MODEL;
export const TOOL = 'look_up';
export const TOOL_TEXT = 'Look a word up in the source tree.';
export const RESULT = 'reserved for 30 minutes';
export const TOKENS = 6;
export const CALL_TOKENS = 96;
export const SCHEMA = {
  type: 'object',
  properties: { word: { type: 'string', enum: ['cart', 'book'] } },
  required: ['word'],
  additionalProperties: false,
};

export async function check(name, of) {
  const begin = Date.now();
  let seen;
  let outcome = 'passed';
  try {
    seen = await of();
    if (!seen) outcome = 'failed';
  } catch (error) {
    seen = `${error.name}: ${error.message}`;
    outcome = 'failed';
  }
  const seconds = Math.round((Date.now() - begin) / 100) / 10;
  const text = (typeof seen === 'string' ? seen : JSON.stringify(seen) ?? '').slice(0, 400);
  console.log(JSON.stringify({ check: name, outcome, seen: text, seconds }));
}

export function called(given) {
  const found = typeof given === 'string' ? JSON.parse(given) : given;
  if (!['cart', 'book'].includes(found?.word)) {
    throw new Error(`the call's arguments are ${JSON.stringify(given)}`);
  }
  return found;
}

export function streamed(pieces) {
  const parts = pieces.filter(Boolean);
  if (!parts.length) throw new Error('the stream had no pieces');
  return parts.join('');
}
