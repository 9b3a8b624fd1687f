# SPDX-License-Identifier: Apache-2.0
"""Callers of grpcio that compete for locks and leaderships, and give up in bad moments.

The arguments, the modes and the output are described in clients/README.md, section "Contention". Stubs of `proto/`,
made by grpc_tools, must be on PYTHONPATH.
"""
import importlib
import random
import sys
import threading
import time

import grpc
from google.protobuf.duration_pb2 import Duration
from atomix.runtime.v1.primitive_pb2 import PrimitiveId

SERVICES = {"lock": "Lock", "map": "Map", "countermap": "CounterMap", "election": "LeaderElection"}
# Programs that compile as they go need longer for their first calls than any margin of a deadline.
WARM_UP = 2
REFUSALS = (grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Target:
    """What one caller competes for, over a connection of its own."""

    def __init__(self, addr, kind, prefix, number, names):
        # Channels with equal options share a connection otherwise.
        self.channel = grpc.insecure_channel(addr, options=[("grpc.use_local_subchannel_pool", 1)])
        self.kind, self.candidate = kind, f"{prefix}-python-{number}"
        # Every fifth caller competes for name 0, the others are spread over the rest.
        name = f"{prefix}-{1 + number % (names - 1) if number % 5 else 0}"
        self.id = PrimitiveId(name=name if kind in ("lock", "election") else prefix)
        self.keys = {} if kind == "lock" else {"candidate": self.candidate} if kind == "election" else {"keys": [name]}
        package = f"atomix.runtime.{kind}.v1."
        self.messages = importlib.import_module(f"{package}{kind}_pb2")
        services = importlib.import_module(f"{package}{kind}_pb2_grpc")
        self.stub = getattr(services, SERVICES[kind] + "Stub")(self.channel)
        creation = importlib.import_module(f"{package}{kind}s_pb2")
        self.stub.Create(creation.CreateRequest(id=self.id), timeout=2)

    def take(self, timeout):
        if self.kind == "election":
            return self.stub.Enter, self.messages.EnterRequest(id=self.id, **self.keys)
        seconds, rest = divmod(timeout, 1)
        wire = Duration(seconds=int(seconds), nanos=int(rest * 1e9))
        return self.stub.Lock, self.messages.LockRequest(id=self.id, timeout=wire, **self.keys)

    def release(self):
        if self.kind == "election":
            self.stub.Withdraw(self.messages.WithdrawRequest(id=self.id, **self.keys), timeout=2)
        else:
            self.stub.Unlock(self.messages.UnlockRequest(id=self.id, **self.keys), timeout=2)


class Caller:
    def __init__(self, addrs, kind, mode, prefix, names, number, end, seed):
        self.addr, self.kind, self.mode, self.prefix = addrs[number % len(addrs)], kind, mode, prefix
        self.names, self.number, self.end = names, number, end
        self.random, self.target = random.Random(seed * 1000 + number), None
        self.counts = dict.fromkeys(("granted", "refused", "cut", "failed"), 0)

    def open(self):
        if self.target:
            self.target.channel.close()
        self.target = None
        while self.target is None and time.time() < self.end:
            try:
                self.target = Target(self.addr, self.kind, self.prefix, self.number, self.names)
            except grpc.RpcError:
                time.sleep(0.05)

    def take(self, deadline):
        """Returns whether the lock was obtained."""
        if self.mode == "cancel":
            call, request = self.target.take(10)
            future = call.future(request)
            timer = threading.Timer(deadline, future.cancel)
            timer.start()
            try:
                future.result()
            except grpc.FutureCancelledError:
                return False
            finally:
                timer.cancel()
            return True
        call, request = self.target.take(deadline * (4 if self.mode == "shorter" else 1))
        call(request, timeout=deadline)
        return True

    def released(self):
        """Gives back what is held, however often that takes: an answer may be lost."""
        while True:
            try:
                self.target.release()
                return True
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.ABORTED:
                    return True
                if time.time() > self.end:
                    return False
                time.sleep(0.02)

    def run(self):
        self.open()
        warm = time.time() + WARM_UP
        while self.target and time.time() < self.end:
            granted = failed = False
            try:
                granted = self.take(self.random.uniform(0.1, 0.4) + (WARM_UP if time.time() < warm else 0))
            except grpc.RpcError as error:
                failed = error.code() not in REFUSALS
            if self.mode == "cut" and self.random.randrange(30) == 0:
                self.counts["cut"] += 1
                self.open()
            elif granted:
                self.counts["granted"] += 1
                time.sleep(self.random.uniform(0.001, 0.008))
                if not self.released():
                    self.counts["failed"] += 1
                    self.open()
            elif failed:
                self.counts["failed"] += 1
                time.sleep(self.random.uniform(0.005, 0.05))
            else:
                self.counts["refused"] += 1
                # The lock may have been granted before: applications that cancel have to give it back.
                if self.mode == "cancel" and not self.released():
                    self.open()


def main():
    addrs, kind, mode, prefix, names, callers, seconds, seed = sys.argv[1:]
    end = time.time() + float(seconds)
    made = [Caller(addrs.split(","), kind, mode, prefix, int(names), number, end, int(seed)) for number in range(int(callers))]
    threads = [threading.Thread(target=caller.run) for caller in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(*(f"{name}={sum(caller.counts[name] for caller in made)}" for name in made[0].counts), flush=True)
    # The connections stay open while the test checks that nothing is held.
    sys.stdin.read()


if __name__ == "__main__":
    main()
