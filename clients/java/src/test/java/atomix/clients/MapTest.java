// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.map.v1.MapGrpc;
import atomix.runtime.map.v1.MapGrpc.MapBlockingStub;
import atomix.runtime.map.v1.MapOuterClass.ClearRequest;
import atomix.runtime.map.v1.MapOuterClass.EntriesRequest;
import atomix.runtime.map.v1.MapOuterClass.Event;
import atomix.runtime.map.v1.MapOuterClass.EventsRequest;
import atomix.runtime.map.v1.MapOuterClass.EventsResponse;
import atomix.runtime.map.v1.MapOuterClass.GetRequest;
import atomix.runtime.map.v1.MapOuterClass.InsertRequest;
import atomix.runtime.map.v1.MapOuterClass.LockRequest;
import atomix.runtime.map.v1.MapOuterClass.PutRequest;
import atomix.runtime.map.v1.MapOuterClass.RemoveRequest;
import atomix.runtime.map.v1.MapOuterClass.SizeRequest;
import atomix.runtime.map.v1.MapOuterClass.UnlockRequest;
import atomix.runtime.map.v1.MapOuterClass.UpdateRequest;
import atomix.runtime.map.v1.MapOuterClass.VersionedValue;
import atomix.runtime.map.v1.MapsOuterClass.CacheConfig;
import atomix.runtime.map.v1.MapsOuterClass.CloseRequest;
import atomix.runtime.map.v1.MapsOuterClass.CreateRequest;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import org.junit.jupiter.api.Test;

/** What the map of the Java SDK relies on. */
class MapTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private MapBlockingStub open(ManagedChannel channel) {
    var stub = MapGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private MapBlockingStub open() {
    return open(connect());
  }

  private VersionedValue get(MapBlockingStub map, String key) {
    return map.get(GetRequest.newBuilder().setId(id).setKey(key).build()).getValue();
  }

  /** Returns what was there before; version 0 means nothing, as the SDK reads it. */
  private VersionedValue put(MapBlockingStub map, String key, String value) {
    return map.put(PutRequest.newBuilder().setId(id).setKey(key).setValue(Server.bytes(value)).build()).getPrevValue();
  }

  private long putAndGet(MapBlockingStub map, String key, String value) {
    return map.put(PutRequest.newBuilder().setId(id).setKey(key).setValue(Server.bytes(value)).build()).getVersion();
  }

  private Status.Code putIfAbsent(MapBlockingStub map, String key, String value) {
    return Server.code(() -> assertTrue(map.insert(
        InsertRequest.newBuilder().setId(id).setKey(key).setValue(Server.bytes(value)).build()).getVersion() > 0));
  }

  private Status.Code replace(MapBlockingStub map, String key, long version, String value) {
    return Server.code(() -> map.update(UpdateRequest.newBuilder()
        .setId(id).setKey(key).setPrevVersion(version).setValue(Server.bytes(value)).build()));
  }

  private Status.Code remove(MapBlockingStub map, String key, long version) {
    return Server.code(() -> map.remove(
        RemoveRequest.newBuilder().setId(id).setKey(key).setPrevVersion(version).build()));
  }

  private int size(MapBlockingStub map) {
    return map.size(SizeRequest.newBuilder().setId(id).build()).getSize();
  }

  private static VersionedValue versioned(String value, long version) {
    return VersionedValue.newBuilder().setValue(Server.bytes(value)).setVersion(version).build();
  }

  @Test
  void answersThePreviousValue() {
    var map = open();
    var other = open();
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> get(map, "foo")));
    assertEquals(0, put(map, "foo", "one").getVersion());
    VersionedValue one = get(other, "foo");
    assertEquals(Server.bytes("one"), one.getValue());
    assertEquals(one, put(other, "foo", "two"));
    VersionedValue two = get(map, "foo");
    assertTrue(two.getVersion() > one.getVersion());
    // The same bytes: nothing changes, and the answer still tells what was there.
    assertEquals(two, put(map, "foo", "two"));
    assertEquals(two, get(map, "foo"));
    assertEquals(two, map.update(UpdateRequest.newBuilder()
        .setId(id).setKey("foo").setValue(Server.bytes("three")).build()).getPrevValue());
    VersionedValue three = get(other, "foo");
    assertEquals(three, other.remove(RemoveRequest.newBuilder().setId(id).setKey("foo").build()).getValue());
    assertEquals(Status.Code.NOT_FOUND, remove(map, "foo", 0));
    assertEquals(0, size(map));
  }

  @Test
  void writesUnderConditions() {
    var map = open();
    assertEquals(Status.Code.OK, putIfAbsent(map, "foo", "one"));
    assertEquals(Status.Code.ALREADY_EXISTS, putIfAbsent(map, "foo", "two"));
    VersionedValue one = get(map, "foo");
    assertEquals(Server.bytes("one"), one.getValue());
    assertEquals(Status.Code.NOT_FOUND, replace(map, "none", one.getVersion(), "x"));
    assertEquals(Status.Code.ABORTED, replace(map, "foo", one.getVersion() + 1_000_000, "x"));
    assertEquals(Status.Code.OK, replace(map, "foo", one.getVersion(), "two"));
    assertEquals(Status.Code.ABORTED, replace(map, "foo", one.getVersion(), "three"));
    VersionedValue two = get(map, "foo");
    assertEquals(Server.bytes("two"), two.getValue());
    assertEquals(Status.Code.ABORTED, remove(map, "foo", one.getVersion()));
    assertEquals(Status.Code.NOT_FOUND, remove(map, "none", one.getVersion()));
    assertEquals(Status.Code.OK, remove(map, "foo", two.getVersion()));
  }

  /** The SDK computes by get, then insert, update at the version or remove at the version, and repeats on a conflict. */
  @Test
  void losesNoUpdateOfACompute() throws Exception {
    final int workers = 4;
    final int rounds = 25;
    var threads = new java.util.ArrayList<CompletableFuture<Void>>();
    for (int worker = 0; worker < workers; worker++) {
      var map = open();
      threads.add(CompletableFuture.runAsync(() -> {
        for (int round = 0; round < rounds; round++) {
          while (!increment(map)) {
            Thread.onSpinWait();
          }
        }
      }, command -> new Thread(command).start()));
    }
    try {
      CompletableFuture.allOf(threads.toArray(CompletableFuture[]::new)).get();
    } catch (ExecutionException e) {
      throw new AssertionError(e.getCause());
    }
    assertEquals(String.valueOf(workers * rounds), get(open(), "sum").getValue().toStringUtf8());
  }

  private boolean increment(MapBlockingStub map) {
    VersionedValue[] current = new VersionedValue[1];
    Status.Code code = Server.code(() -> current[0] = get(map, "sum"));
    if (code == Status.Code.NOT_FOUND) {
      code = putIfAbsent(map, "sum", "1");
    } else {
      assertEquals(Status.Code.OK, code);
      int sum = Integer.parseInt(current[0].getValue().toStringUtf8()) + 1;
      code = replace(map, "sum", current[0].getVersion(), String.valueOf(sum));
    }
    assertTrue(List.of(Status.Code.OK, Status.Code.ALREADY_EXISTS, Status.Code.ABORTED).contains(code), code.toString());
    return code == Status.Code.OK;
  }

  @Test
  void tellsListeners() throws Exception {
    var map = open();
    ManagedChannel channel = connect();
    open(channel);
    Listener<EventsRequest, EventsResponse> events = new Listener<>();
    Listener<EventsRequest, EventsResponse> some = new Listener<>();
    MapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).build(), events);
    MapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).setKey("bar").build(), some);
    assertEquals(Event.getDefaultInstance(), events.next().getEvent());
    assertEquals(Event.newBuilder().setKey("bar").build(), some.next().getEvent());

    long one = putAndGet(map, "foo", "one");
    long two = putAndGet(map, "foo", "two");
    assertEquals(two, putAndGet(map, "foo", "two"));
    assertEquals(Status.Code.OK, remove(map, "foo", two));
    long bar = putAndGet(map, "bar", "");
    map.clear(ClearRequest.newBuilder().setId(id).build());
    Event inserted = events.next().getEvent();
    assertEquals("foo", inserted.getKey());
    assertEquals(versioned("one", one), inserted.getInserted().getValue());
    Event.Updated updated = events.next().getEvent().getUpdated();
    assertEquals(versioned("two", two), updated.getValue());
    assertEquals(versioned("one", one), updated.getPrevValue());
    Event.Removed removed = events.next().getEvent().getRemoved();
    assertEquals(Event.Removed.newBuilder().setValue(versioned("two", two)).build(), removed);
    for (var stream : List.of(events, some)) {
      assertEquals(versioned("", bar), stream.next().getEvent().getInserted().getValue());
      assertEquals(versioned("", bar), stream.next().getEvent().getRemoved().getValue());
      stream.quiet();
    }
    events.cancel();
    MapGrpc.newBlockingStub(channel).close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(some.rest().isEmpty());
    putAndGet(map, "foo", "the close of another client changes nothing");
  }

  @Test
  void listsItsContent() {
    var map = open();
    Map<String, VersionedValue> expected = new HashMap<>();
    for (int i = 0; i < 100; i++) {
      String key = "key " + i;
      expected.put(key, versioned("value", putAndGet(map, key, "value")));
    }
    Map<String, VersionedValue> content = new HashMap<>();
    open().entries(EntriesRequest.newBuilder().setId(id).build())
        .forEachRemaining(r -> content.put(r.getEntry().getKey(), r.getEntry().getValue()));
    assertEquals(expected, content);
    assertEquals(100, size(map));
  }

  @Test
  void expiresEntries() throws Exception {
    ManagedChannel channel = connect();
    var map = open(channel);
    Listener<EventsRequest, EventsResponse> events = new Listener<>();
    MapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).build(), events);
    events.next();
    long version = map.put(PutRequest.newBuilder()
        .setId(id).setKey("put").setValue(Server.bytes("x")).setTtl(Server.millis(300)).build()).getVersion();
    events.next();
    Event expired = events.next().getEvent();
    assertEquals("put", expired.getKey());
    assertEquals(Event.Removed.newBuilder().setValue(versioned("x", version)).setExpired(true).build(),
        expired.getRemoved());
    map.insert(InsertRequest.newBuilder()
        .setId(id).setKey("insert").setValue(Server.bytes("x")).setTtl(Server.millis(300)).build());
    soon("the entry is gone", () -> Server.code(() -> get(map, "insert")) == Status.Code.NOT_FOUND);
    assertEquals(0, size(map));
  }

  @Test
  void locksKeys() throws Exception {
    ManagedChannel dying = connect();
    var first = open(dying);
    var second = open();
    var third = open();
    var foo = LockRequest.newBuilder().setId(id).addKeys("foo").build();
    var fooOnce = foo.toBuilder().setTimeout(Server.millis(0)).build();
    var bar = LockRequest.newBuilder().setId(id).addKeys("bar").setTimeout(Server.millis(0)).build();
    var unlockFoo = UnlockRequest.newBuilder().setId(id).addKeys("foo").build();

    assertEquals(Status.Code.OK, Server.code(() -> first.lock(foo)));
    assertEquals(Status.Code.ABORTED, Server.code(() -> second.lock(fooOnce)));
    assertEquals(Status.Code.OK, Server.code(() -> second.lock(bar)), "keys are locked one by one");
    assertEquals(Status.Code.ABORTED, Server.code(() -> second.unlock(unlockFoo)));
    assertEquals(0, put(third, "foo", "advisory").getVersion(), "a lock does not stop a write");

    CompletableFuture<Status.Code> waiting = later(() -> Server.code(() -> second.lock(foo)));
    assertFalse(waiting.isDone());
    assertEquals(Status.Code.OK, Server.code(() -> first.unlock(unlockFoo)));
    assertEquals(Status.Code.OK, result(waiting));

    // All keys or none: "baz" stays free while "foo" is taken.
    var both = LockRequest.newBuilder().setId(id).addKeys("foo").addKeys("baz").setTimeout(Server.millis(0)).build();
    assertEquals(Status.Code.ABORTED, Server.code(() -> first.lock(both)));
    var baz = LockRequest.newBuilder().setId(id).addKeys("baz").setTimeout(Server.millis(0)).build();
    assertEquals(Status.Code.OK, Server.code(() -> first.lock(baz)));
    assertEquals(Status.Code.ABORTED, Server.code(() -> third.lock(baz)));
    drop(dying);
    assertEquals(Status.Code.OK,
        Server.code(() -> third.lock(baz.toBuilder().setTimeout(Server.millis(1_000)).build())));
  }

  @Test
  void answersTheCacheOfItsRoute() {
    var stub = MapGrpc.newBlockingStub(connect());
    Map<List<String>, CacheConfig> routes = Map.of(
        List.of(), CacheConfig.getDefaultInstance(),
        List.of(Server.CACHED), CacheConfig.newBuilder().setEnabled(true).build(),
        List.of(Server.LRU), CacheConfig.newBuilder().setEnabled(true).setSize(3).build());
    routes.forEach((tags, cache) -> {
      var created = stub.create(CreateRequest.newBuilder().setId(Server.freshId()).addAllTags(tags).build());
      assertTrue(created.hasConfig() && created.getConfig().hasCache(), "both are always present");
      assertEquals(cache, created.getConfig().getCache());
    });
  }
}
