// SPDX-License-Identifier: Apache-2.0
// Callers of grpc-js that compete for locks and leaderships, and give up in bad moments. The arguments, the modes and
// the output are described in clients/README.md, section "Contention". PROTO names the folder of the definitions.
"use strict";

const { createRequire } = require("node:module");
// The libraries are installed outside of the sources: MODULES names the folder.
const libraries = createRequire(`${process.env.MODULES ?? __dirname}/package.json`);
const grpc = libraries("@grpc/grpc-js");
const loader = libraries("@grpc/proto-loader");

const SERVICES = { lock: "Lock", map: "Map", countermap: "CounterMap", election: "LeaderElection" };
const REFUSALS = [grpc.status.ABORTED, grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED];
const [addrs, kind, mode, prefix, names, callers, seconds, seed] = process.argv.slice(2);
const folder = process.env.PROTO ?? `${__dirname}/../../proto`;
const file = `atomix/runtime/${kind}/v1/${kind}.proto`;
const definition = loader.loadSync(file, { includeDirs: [folder], longs: String });
const Stub = grpc.loadPackageDefinition(definition).atomix.runtime[kind].v1[SERVICES[kind]];
// Programs that compile as they go need longer for their first calls than any margin of a deadline.
const WARM_UP = 2000;
const end = Date.now() + Number(seconds) * 1000;
const counts = { granted: 0, refused: 0, cut: 0, failed: 0 };

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

/** A small generator with a seed: runs differ by their seed only. */
function generator(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

class Caller {
  constructor(number) {
    this.number = number;
    this.random = generator(Number(seed) * 1000 + number);
    const list = addrs.split(",");
    this.addr = list[number % list.length];
    // Every fifth caller competes for name 0, the others are spread over the rest.
    const name = `${prefix}-${number % 5 === 0 ? 0 : 1 + (number % (Number(names) - 1))}`;
    const own = kind === "lock" || kind === "election";
    this.base = { id: { name: own ? name : prefix } };
    this.named = { ...this.base };
    if (kind === "election") this.named.candidate = `${prefix}-node-${number}`;
    else if (!own) this.named.keys = [name];
  }

  between(min, max) {
    return min + (max - min) * this.random();
  }

  /** Makes a call. `cancelAfter` cancels it after so many milliseconds. */
  call(method, request, options, cancelAfter) {
    return new Promise((resolve, reject) => {
      let timer;
      const call = this.stub[method](request, options, (error, answer) => {
        clearTimeout(timer);
        if (error) reject(error);
        else resolve(answer);
      });
      if (cancelAfter !== undefined) timer = setTimeout(() => call.cancel(), cancelAfter);
    });
  }

  /** Ends the connection. `close` of the stub is an RPC of the primitive. */
  hangUp() {
    this.stub?.getChannel().close();
    this.stub = undefined;
  }

  async open() {
    this.hangUp();
    while (!this.stub && Date.now() < end) {
      // Channels with equal options share a connection otherwise.
      this.stub = new Stub(this.addr, grpc.credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
      try {
        await this.call("create", this.base, { deadline: Date.now() + 2000 });
      } catch {
        this.hangUp();
        await pause(50);
      }
    }
  }

  async take(deadline) {
    const timeout = mode === "cancel" ? 10_000 : mode === "shorter" ? 4 * deadline : deadline;
    const whole = Math.floor(timeout / 1000);
    const request = { ...this.named };
    const method = kind === "election" ? "enter" : "lock";
    if (method === "lock") request.timeout = { seconds: whole, nanos: Math.floor((timeout - whole * 1000) * 1e6) };
    if (mode === "cancel") await this.call(method, request, {}, deadline);
    else await this.call(method, request, { deadline: Date.now() + deadline });
  }

  /** Gives back what is held, however often that takes: an answer may be lost. */
  async released() {
    for (;;) {
      try {
        await this.call(kind === "election" ? "withdraw" : "unlock", this.named, { deadline: Date.now() + 2000 });
        return true;
      } catch (error) {
        if (error.code === grpc.status.ABORTED) return true;
        if (Date.now() > end) return false;
        await pause(20);
      }
    }
  }

  async run() {
    await this.open();
    const warm = Date.now() + WARM_UP;
    while (this.stub && Date.now() < end) {
      let code = grpc.status.OK;
      try {
        await this.take(this.between(100, 400) + (Date.now() < warm ? WARM_UP : 0));
      } catch (error) {
        code = error.code;
      }
      if (mode === "cut" && this.random() < 1 / 30) {
        counts.cut += 1;
        await this.open();
      } else if (code === grpc.status.OK) {
        counts.granted += 1;
        await pause(this.between(1, 8));
        if (!(await this.released())) {
          counts.failed += 1;
          await this.open();
        }
      } else if (REFUSALS.includes(code)) {
        counts.refused += 1;
        // The lock may have been granted before: applications that cancel have to give it back.
        if (mode === "cancel" && !(await this.released())) await this.open();
      } else {
        counts.failed += 1;
        await pause(this.between(5, 50));
      }
    }
  }
}

async function main() {
  const all = Array.from({ length: Number(callers) }, (_, number) => new Caller(number));
  await Promise.all(all.map((caller) => caller.run()));
  console.log(Object.entries(counts).map(([name, count]) => `${name}=${count}`).join(" "));
  // The connections stay open while the test checks that nothing is held.
  process.stdin.resume();
  process.stdin.on("end", () => process.exit(0));
}

main();
