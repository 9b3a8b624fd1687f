// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;

import atomix.runtime.counter.v1.CounterGrpc;
import atomix.runtime.counter.v1.CounterOuterClass.DecrementRequest;
import atomix.runtime.counter.v1.CounterOuterClass.GetRequest;
import atomix.runtime.counter.v1.CounterOuterClass.IncrementRequest;
import atomix.runtime.counter.v1.CounterOuterClass.SetRequest;
import atomix.runtime.counter.v1.CounterOuterClass.UpdateRequest;
import atomix.runtime.counter.v1.CountersOuterClass.CloseRequest;
import atomix.runtime.counter.v1.CountersOuterClass.CreateRequest;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.Status;
import org.junit.jupiter.api.Test;

/** What the counter of the Java SDK relies on. */
class CounterTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private CounterGrpc.CounterBlockingStub open() {
    var stub = CounterGrpc.newBlockingStub(connect());
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private long get(CounterGrpc.CounterBlockingStub counter) {
    return counter.get(GetRequest.newBuilder().setId(id).build()).getValue();
  }

  private long add(CounterGrpc.CounterBlockingStub counter, long delta) {
    return counter.increment(IncrementRequest.newBuilder().setId(id).setDelta(delta).build()).getValue();
  }

  private Status.Code compareAndSet(CounterGrpc.CounterBlockingStub counter, long expected, long update) {
    return Server.code(() -> assertEquals(update, counter.update(
        UpdateRequest.newBuilder().setId(id).setCheck(expected).setUpdate(update).build()).getValue()));
  }

  @Test
  void answersTheNewValue() {
    var counter = open();
    assertEquals(0, get(counter));
    assertEquals(7, counter.set(SetRequest.newBuilder().setId(id).setValue(7).build()).getValue());
    assertEquals(-1, counter.set(SetRequest.newBuilder().setId(id).setValue(-1).build()).getValue());
    assertEquals(0, add(counter, 1));
    assertEquals(-10, counter.decrement(DecrementRequest.newBuilder().setId(id).setDelta(10).build()).getValue());
    assertEquals(10, add(counter, 20));
    assertEquals(10, add(counter, 0));
    counter.close(CloseRequest.newBuilder().setId(id).build());
    assertEquals(10, get(open()));
  }

  @Test
  void comparesAndSets() {
    var counter = open();
    assertEquals(Status.Code.OK, compareAndSet(counter, 0, 5));
    assertEquals(Status.Code.ABORTED, compareAndSet(counter, 0, 6));
    assertEquals(5, get(counter));
    assertEquals(Status.Code.OK, compareAndSet(counter, 5, 0));
  }

  @Test
  void wrapsAround() {
    var counter = open();
    assertEquals(Long.MAX_VALUE, add(counter, Long.MAX_VALUE));
    assertEquals(Long.MIN_VALUE, add(counter, 1));
  }
}
