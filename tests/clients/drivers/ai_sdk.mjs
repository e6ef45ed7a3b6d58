// The AI SDK with its provider for OpenAI's API, by OpenAI's variables.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import {
  CALL_TOKENS, MODEL, QUESTION, RESULT, TOKENS, TOOL, TOOL_TEXT, called, check, streamed,
} from './report.mjs';

const infbox = createOpenAICompatible({
  name: 'infbox',
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
});
const asked = { model: infbox(MODEL), prompt: QUESTION, maxOutputTokens: TOKENS, maxRetries: 0 };
const inputSchema = z.object({ word: z.enum(['cart', 'book']) });

await check('answer', async () => (await generateText(asked)).text);
await check('stream', async () => {
  const pieces = [];
  for await (const piece of streamText(asked).textStream) pieces.push(piece);
  return streamed(pieces);
});
await check('tool', async () => {
  const seen = [];
  const execute = async (given) => {
    seen.push(called(given));
    return RESULT;
  };
  const tools = { [TOOL]: tool({ description: TOOL_TEXT, inputSchema, strict: true, execute }) };
  const said = await generateText({
    ...asked,
    tools,
    maxOutputTokens: CALL_TOKENS,
    stopWhen: stepCountIs(2),
    // Forced once: then it answers.
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? 'none' : 'required' }),
  });
  return seen.length && said.steps.length === 2 && said.text;
});
