// OpenAI's library for Node.js, by its own variables.
import OpenAI from 'openai';
import {
  CALL_TOKENS, MODEL, QUESTION, RESULT, SCHEMA, TOKENS, TOOL, TOOL_TEXT, called, check, streamed,
} from './report.mjs';

const client = new OpenAI({ maxRetries: 0, timeout: 900_000 });
const model = MODEL;
const messages = [{ role: 'user', content: QUESTION }];
const parameters = { name: TOOL, description: TOOL_TEXT, strict: true, parameters: SCHEMA };
const tools = [{ type: 'function', function: parameters }];
const create = (asked) => client.chat.completions.create({ model, messages, ...asked });

await check('answer', async () => (await create({ max_tokens: TOKENS })).choices[0].message.content);
await check('stream', async () => {
  const pieces = [];
  for await (const chunk of await create({ max_tokens: TOKENS, stream: true })) {
    pieces.push(chunk.choices[0]?.delta.content);
  }
  return streamed(pieces);
});
await check('tool', async () => {
  const forced = { type: 'function', function: { name: TOOL } };
  const said = await create({ tools, tool_choice: forced, max_tokens: CALL_TOKENS });
  const { message } = said.choices[0];
  const [call] = message.tool_calls;
  called(call.function.arguments);
  const result = { role: 'tool', tool_call_id: call.id, content: RESULT };
  const history = [...messages, message, result];
  const asked = { messages: history, tools, tool_choice: 'none', max_tokens: TOKENS };
  return (await create(asked)).choices[0].message.content;
});
await check('models', async () => {
  const names = (await client.models.list()).data.map((each) => each.id);
  return names.includes(MODEL) && names;
});
