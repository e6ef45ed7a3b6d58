// Anthropic's library for Node.js, by its own variables.
import Anthropic from '@anthropic-ai/sdk';
import {
  CALL_TOKENS, MODEL, QUESTION, RESULT, SCHEMA, TOKENS, TOOL, TOOL_TEXT, check, streamed,
} from './report.mjs';

const client = new Anthropic({ maxRetries: 0, timeout: 900_000 });
const model = MODEL;
const messages = [{ role: 'user', content: QUESTION }];
const tools = [{ name: TOOL, description: TOOL_TEXT, input_schema: SCHEMA }];

await check('answer', async () =>
  (await client.messages.create({ model, messages, max_tokens: TOKENS })).content[0].text);
await check('stream', async () => {
  const pieces = [];
  const stream = client.messages.stream({ model, messages, max_tokens: TOKENS });
  stream.on('text', (piece) => pieces.push(piece));
  await stream.finalMessage();
  return streamed(pieces);
});
await check('tool', async () => {
  const forced = { type: 'tool', name: TOOL };
  const asked = { model, messages, tools, tool_choice: forced, max_tokens: CALL_TOKENS };
  const use = await firstCall(await client.messages.create({ ...asked, stream: true }));
  const history = [
    ...messages,
    { role: 'assistant', content: [{ ...use, input: { word: 'cart' } }] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: RESULT }] },
  ];
  const told = { model, messages: history, tools, max_tokens: TOKENS };
  return (await client.messages.create(told)).content[0].text;
});
await check('models', async () => {
  const names = (await client.models.list()).data.map((each) => each.id);
  return names.includes(MODEL) && names;
});

// The arguments are not looked at: this API has no way to hold a small model to their schema.
async function firstCall(events) {
  for await (const event of events) {
    if (event.type === 'content_block_start' && event.content_block.type === 'tool_use') {
      const { id, name } = event.content_block;
      return { type: 'tool_use', id, name };
    }
  }
  throw new Error('no call came');
}
