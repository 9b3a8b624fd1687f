// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.countermap.v1.CounterMapGrpc;
import atomix.runtime.countermap.v1.CounterMapGrpc.CounterMapBlockingStub;
import atomix.runtime.countermap.v1.Countermap.ClearRequest;
import atomix.runtime.countermap.v1.Countermap.DecrementRequest;
import atomix.runtime.countermap.v1.Countermap.EntriesRequest;
import atomix.runtime.countermap.v1.Countermap.EntriesResponse;
import atomix.runtime.countermap.v1.Countermap.Entry;
import atomix.runtime.countermap.v1.Countermap.Event;
import atomix.runtime.countermap.v1.Countermap.EventsRequest;
import atomix.runtime.countermap.v1.Countermap.EventsResponse;
import atomix.runtime.countermap.v1.Countermap.GetRequest;
import atomix.runtime.countermap.v1.Countermap.IncrementRequest;
import atomix.runtime.countermap.v1.Countermap.InsertRequest;
import atomix.runtime.countermap.v1.Countermap.LockRequest;
import atomix.runtime.countermap.v1.Countermap.RemoveRequest;
import atomix.runtime.countermap.v1.Countermap.SetRequest;
import atomix.runtime.countermap.v1.Countermap.SizeRequest;
import atomix.runtime.countermap.v1.Countermap.UnlockRequest;
import atomix.runtime.countermap.v1.Countermap.UpdateRequest;
import atomix.runtime.countermap.v1.Countermaps.CloseRequest;
import atomix.runtime.countermap.v1.Countermaps.CreateRequest;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.Test;

/** What the counter map of the Java SDK relies on. */
class CounterMapTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private CounterMapBlockingStub open(ManagedChannel channel) {
    var stub = CounterMapGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private CounterMapBlockingStub open() {
    return open(connect());
  }

  private long get(CounterMapBlockingStub map, String key) {
    return map.get(GetRequest.newBuilder().setId(id).setKey(key).build()).getValue();
  }

  /** Increments as the SDK does, which sends no delta: the server adds one. */
  private long getAndIncrement(CounterMapBlockingStub map, String key) {
    return map.increment(IncrementRequest.newBuilder().setId(id).setKey(key).build()).getPrevValue();
  }

  private long getAndDecrement(CounterMapBlockingStub map, String key) {
    return map.decrement(DecrementRequest.newBuilder().setId(id).setKey(key).build()).getPrevValue();
  }

  private long getAndAdd(CounterMapBlockingStub map, String key, long delta) {
    return map.increment(IncrementRequest.newBuilder().setId(id).setKey(key).setDelta(delta).build()).getPrevValue();
  }

  private long put(CounterMapBlockingStub map, String key, long value) {
    return map.set(SetRequest.newBuilder().setId(id).setKey(key).setValue(value).build()).getPrevValue();
  }

  private Status.Code replace(CounterMapBlockingStub map, String key, long expected, long value) {
    return Server.code(() -> assertEquals(expected, map.update(UpdateRequest.newBuilder()
        .setId(id).setKey(key).setPrevValue(expected).setValue(value).build()).getPrevValue()));
  }

  private int size(CounterMapBlockingStub map) {
    return map.size(SizeRequest.newBuilder().setId(id).build()).getSize();
  }

  @Test
  void answersThePreviousValue() {
    var map = open();
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> get(map, "foo")));
    assertEquals(0, getAndIncrement(map, "foo"));
    assertEquals(1, getAndIncrement(map, "foo"));
    assertEquals(2, getAndDecrement(map, "foo"));
    assertEquals(1, getAndAdd(map, "foo", 10));
    assertEquals(11, getAndAdd(map, "foo", -20));
    assertEquals(-9, get(map, "foo"));
    assertEquals(0, getAndDecrement(map, "bar"));
    assertEquals(-1, get(map, "bar"));
    assertEquals(-9, put(map, "foo", 5));
    assertEquals(0, put(map, "new", 7));
    assertEquals(3, size(map));
  }

  @Test
  void keepsACounterOfZero() {
    var map = open();
    assertEquals(0, put(map, "foo", 1));
    assertEquals(1, getAndDecrement(map, "foo"));
    assertEquals(0, get(map, "foo"));
    assertEquals(1, size(map));
  }

  @Test
  void replacesOnlyTheExpectedValue() {
    var map = open();
    assertEquals(Status.Code.NOT_FOUND, replace(map, "foo", 0, 1));
    put(map, "foo", 5);
    assertEquals(Status.Code.ABORTED, replace(map, "foo", 4, 6));
    assertEquals(Status.Code.ABORTED, replace(map, "foo", 0, 6));
    assertEquals(Status.Code.OK, replace(map, "foo", 5, 0));
    assertEquals(Status.Code.OK, replace(map, "foo", 0, 9));
    assertEquals(9, get(map, "foo"));
  }

  @Test
  void removesAKeyWithAndWithoutItsValue() {
    var map = open();
    var any = RemoveRequest.newBuilder().setId(id).setKey("foo").build();
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> map.remove(any)));
    put(map, "foo", 5);
    assertEquals(5, map.remove(any).getValue());
    put(map, "foo", 5);
    assertEquals(Status.Code.ABORTED, Server.code(() -> map.remove(any.toBuilder().setPrevValue(4).build())));
    assertEquals(5, map.remove(any.toBuilder().setPrevValue(5).build()).getValue());
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> map.remove(any.toBuilder().setPrevValue(5).build())));
    assertEquals(0, size(map));
  }

  @Test
  void insertsOnce() {
    var map = open();
    var insert = InsertRequest.newBuilder().setId(id).setKey("foo").setValue(3).build();
    assertEquals(Status.Code.OK, Server.code(() -> map.insert(insert)));
    assertEquals(Status.Code.ALREADY_EXISTS, Server.code(() -> map.insert(insert)));
    assertEquals(3, get(map, "foo"));
  }

  @Test
  void showsEveryChange() throws Exception {
    var map = open();
    ManagedChannel channel = connect();
    open(channel);
    Listener<EventsRequest, EventsResponse> all = new Listener<>();
    Listener<EventsRequest, EventsResponse> some = new Listener<>();
    CounterMapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).build(), all);
    CounterMapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).setKey("foo").build(), some);
    assertEquals(Event.EventCase.EVENT_NOT_SET, all.next().getEvent().getEventCase());
    assertEquals(Event.newBuilder().setKey("foo").build(), some.next().getEvent());
    Listener<EntriesRequest, EntriesResponse> entries = new Listener<>();
    put(map, "old", 1);
    CounterMapGrpc.newStub(channel).entries(EntriesRequest.newBuilder().setId(id).setWatch(true).build(), entries);
    assertEquals(entry("old", 1), entries.next().getEntry());
    assertEquals("old", all.next().getEvent().getKey());

    getAndAdd(map, "foo", 5);
    getAndAdd(map, "foo", 5);
    put(map, "foo", 10);
    map.remove(RemoveRequest.newBuilder().setId(id).setKey("foo").build());
    for (var events : Set.of(all, some)) {
      assertEquals(5, events.next().getEvent().getInserted().getValue());
      assertEquals(Event.Updated.newBuilder().setValue(10).setPrevValue(5).build(),
          events.next().getEvent().getUpdated());
      // A set to the same value is a change.
      assertEquals(Event.Updated.newBuilder().setValue(10).setPrevValue(10).build(),
          events.next().getEvent().getUpdated());
      assertEquals(10, events.next().getEvent().getRemoved().getValue());
      events.quiet();
    }
    // A watch shows values, not deltas, and a removal as the last value.
    for (long value : new long[] {5, 10, 10, 10}) {
      assertEquals(entry("foo", value), entries.next().getEntry());
    }
    map.clear(ClearRequest.newBuilder().setId(id).build());
    assertEquals(1, all.next().getEvent().getRemoved().getValue());
    assertEquals(entry("old", 1), entries.next().getEntry());
    entries.quiet();

    CounterMapGrpc.newBlockingStub(channel).close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(all.rest().isEmpty());
    assertTrue(some.rest().isEmpty());
    assertTrue(entries.rest().isEmpty());
  }

  @Test
  void listsItsContent() {
    var map = open();
    put(map, "foo", 1);
    put(map, "bar", -2);
    Map<String, Long> content = new HashMap<>();
    map.entries(EntriesRequest.newBuilder().setId(id).build())
        .forEachRemaining(r -> content.put(r.getEntry().getKey(), r.getEntry().getValue()));
    assertEquals(Map.of("foo", 1L, "bar", -2L), content);
    map.clear(ClearRequest.newBuilder().setId(id).build());
    assertFalse(map.entries(EntriesRequest.newBuilder().setId(id).build()).hasNext());
  }

  @Test
  void locksKeysForOneConnection() {
    var first = open();
    var second = open();
    var both = LockRequest.newBuilder().setId(id).addKeys("b").addKeys("a").setTimeout(Server.millis(0)).build();
    var one = LockRequest.newBuilder().setId(id).addKeys("a").setTimeout(Server.millis(0)).build();
    assertEquals(Status.Code.OK, Server.code(() -> first.lock(both)));
    assertEquals(Status.Code.ABORTED, Server.code(() -> second.lock(one)));
    var unlock = UnlockRequest.newBuilder().setId(id).addKeys("a").build();
    assertEquals(Status.Code.ABORTED, Server.code(() -> second.unlock(unlock)));
    assertEquals(Status.Code.OK, Server.code(() -> first.unlock(unlock)));
    assertEquals(Status.Code.OK, Server.code(() -> second.lock(one)));
  }

  private static Entry entry(String key, long value) {
    return Entry.newBuilder().setKey(key).setValue(value).build();
  }
}
