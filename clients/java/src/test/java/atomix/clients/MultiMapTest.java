// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.multimap.v1.MultiMapGrpc;
import atomix.runtime.multimap.v1.MultiMapGrpc.MultiMapBlockingStub;
import atomix.runtime.multimap.v1.Multimap.ClearRequest;
import atomix.runtime.multimap.v1.Multimap.ContainsRequest;
import atomix.runtime.multimap.v1.Multimap.EntriesRequest;
import atomix.runtime.multimap.v1.Multimap.EntriesResponse;
import atomix.runtime.multimap.v1.Multimap.Entry;
import atomix.runtime.multimap.v1.Multimap.Event;
import atomix.runtime.multimap.v1.Multimap.EventsRequest;
import atomix.runtime.multimap.v1.Multimap.EventsResponse;
import atomix.runtime.multimap.v1.Multimap.GetRequest;
import atomix.runtime.multimap.v1.Multimap.PutAllRequest;
import atomix.runtime.multimap.v1.Multimap.PutEntriesRequest;
import atomix.runtime.multimap.v1.Multimap.PutRequest;
import atomix.runtime.multimap.v1.Multimap.RemoveAllRequest;
import atomix.runtime.multimap.v1.Multimap.RemoveEntriesRequest;
import atomix.runtime.multimap.v1.Multimap.RemoveRequest;
import atomix.runtime.multimap.v1.Multimap.ReplaceRequest;
import atomix.runtime.multimap.v1.Multimap.SizeRequest;
import atomix.runtime.multimap.v1.Multimaps.CloseRequest;
import atomix.runtime.multimap.v1.Multimaps.CreateRequest;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.Test;

/** What the multimap of the Java SDK relies on. */
class MultiMapTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private MultiMapBlockingStub open(ManagedChannel channel) {
    var stub = MultiMapGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private MultiMapBlockingStub open() {
    return open(connect());
  }

  private boolean put(MultiMapBlockingStub map, String key, String value) {
    Status.Code code = Server.code(
        () -> map.put(PutRequest.newBuilder().setId(id).setKey(key).setValue(value).build()));
    assertTrue(code == Status.Code.OK || code == Status.Code.ALREADY_EXISTS, code.toString());
    return code == Status.Code.OK;
  }

  private boolean putAll(MultiMapBlockingStub map, String key, String... values) {
    return map.putAll(PutAllRequest.newBuilder().setId(id).setKey(key).addAllValues(List.of(values)).build())
        .getUpdated();
  }

  private Set<String> replace(MultiMapBlockingStub map, String key, String... values) {
    return Set.copyOf(map.replace(
        ReplaceRequest.newBuilder().setId(id).setKey(key).addAllValues(List.of(values)).build()).getPrevValuesList());
  }

  private Set<String> get(MultiMapBlockingStub map, String key) {
    List<String> values = map.get(GetRequest.newBuilder().setId(id).setKey(key).build()).getValuesList();
    assertEquals(values.size(), Set.copyOf(values).size(), "values are distinct");
    return Set.copyOf(values);
  }

  private boolean remove(MultiMapBlockingStub map, String key, String value) {
    Status.Code code = Server.code(() -> assertEquals(List.of(value), map.remove(
        RemoveRequest.newBuilder().setId(id).setKey(key).setValue(value).build()).getValuesList()));
    assertTrue(code == Status.Code.OK || code == Status.Code.NOT_FOUND, code.toString());
    return code == Status.Code.OK;
  }

  private boolean contains(MultiMapBlockingStub map, String key, String value) {
    return map.contains(ContainsRequest.newBuilder().setId(id).setKey(key).setValue(value).build()).getResult();
  }

  private int size(MultiMapBlockingStub map) {
    return map.size(SizeRequest.newBuilder().setId(id).build()).getSize();
  }

  private static Entry entry(String key, String... values) {
    return Entry.newBuilder().setKey(key).addAllValues(List.of(values)).build();
  }

  private Map<String, Set<String>> content(MultiMapBlockingStub map) {
    Map<String, Set<String>> content = new HashMap<>();
    map.entries(EntriesRequest.newBuilder().setId(id).build()).forEachRemaining(
        r -> content.put(r.getEntry().getKey(), Set.copyOf(r.getEntry().getValuesList())));
    return content;
  }

  @Test
  void holdsASetOfValuesForAKey() {
    var map = open();
    var other = open();
    assertEquals(Set.of(), get(map, "foo"), "an absent key is empty and no error");
    assertTrue(put(map, "foo", "a"));
    assertFalse(put(other, "foo", "a"));
    assertTrue(put(other, "foo", "b"));
    assertTrue(put(map, "bar", "a"));
    assertEquals(Set.of("a", "b"), get(map, "foo"));
    assertEquals(2, size(map), "keys, not pairs");
    assertTrue(contains(map, "foo", "a"));
    assertFalse(contains(map, "foo", "c"));
    assertFalse(contains(map, "none", "a"));

    assertTrue(remove(map, "foo", "a"));
    assertFalse(remove(map, "foo", "a"));
    assertFalse(remove(map, "none", "a"));
    assertTrue(remove(other, "foo", "b"));
    assertEquals(1, size(map), "a key goes with its last value");
    assertEquals(Map.of("bar", Set.of("a")), content(other));
    map.clear(ClearRequest.newBuilder().setId(id).build());
    assertEquals(0, size(other));
    assertEquals(Map.of(), content(other));
  }

  @Test
  void writesManyValues() {
    var map = open();
    assertTrue(putAll(map, "foo", "a", "b"));
    assertFalse(putAll(map, "foo", "a"));
    assertTrue(putAll(map, "foo", "a", "c"));
    assertFalse(putAll(map, "none"));
    assertTrue(map.putEntries(PutEntriesRequest.newBuilder().setId(id)
        .addEntries(entry("foo", "d")).addEntries(entry("bar", "a")).addEntries(entry("bar", "b")).build())
        .getUpdated());
    assertFalse(map.putEntries(PutEntriesRequest.newBuilder().setId(id).addEntries(entry("bar", "b")).build())
        .getUpdated());
    assertEquals(Map.of("foo", Set.of("a", "b", "c", "d"), "bar", Set.of("a", "b")), content(map));

    assertEquals(Set.of("a", "b", "c", "d"), replace(map, "foo", "d", "e"));
    assertEquals(Set.of("d", "e"), get(map, "foo"));
    assertEquals(Set.of(), replace(map, "new", "x"));
    assertEquals(Set.of("x"), replace(map, "new"));
    assertEquals(2, size(map), "a key without values does not exist");
    assertEquals(Map.of("foo", Set.of("d", "e"), "bar", Set.of("a", "b")), content(map));
  }

  @Test
  void removesManyValues() {
    var map = open();
    putAll(map, "foo", "a", "b", "c");
    putAll(map, "bar", "a", "b");
    assertTrue(map.removeAll(RemoveAllRequest.newBuilder()
        .setId(id).setKey("foo").addValues("a").addValues("z").build()).getUpdated());
    assertFalse(map.removeAll(RemoveAllRequest.newBuilder()
        .setId(id).setKey("foo").addValues("z").build()).getUpdated());
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> map.removeAll(
        RemoveAllRequest.newBuilder().setId(id).setKey("none").addValues("a").build())));
    assertTrue(map.removeEntries(RemoveEntriesRequest.newBuilder().setId(id)
        .addEntries(entry("foo", "b")).addEntries(entry("bar", "a")).addEntries(entry("none", "a")).build())
        .getUpdated());
    assertFalse(map.removeEntries(RemoveEntriesRequest.newBuilder().setId(id)
        .addEntries(entry("none", "a")).build()).getUpdated());
    assertEquals(Map.of("foo", Set.of("c"), "bar", Set.of("b")), content(map));
  }

  /** The SDK removes a whole key by a removal without a value. */
  @Test
  void removesAKeyWithAllItsValues() {
    var map = open();
    putAll(map, "foo", "a", "b");
    var all = RemoveRequest.newBuilder().setId(id).setKey("foo").build();
    assertEquals(Set.of("a", "b"), Set.copyOf(map.remove(all).getValuesList()));
    assertEquals(0, size(map));
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> map.remove(all)));
    // A key that has the empty value loses that one alone.
    putAll(map, "foo", "", "b");
    assertTrue(contains(map, "foo", ""));
    assertEquals(List.of(""), map.remove(all).getValuesList());
    assertEquals(Set.of("b"), get(map, "foo"));
  }

  @Test
  void tellsListeners() throws Exception {
    var map = open();
    ManagedChannel channel = connect();
    open(channel);
    putAll(map, "old", "a", "b");
    Listener<EventsRequest, EventsResponse> events = new Listener<>();
    Listener<EventsRequest, EventsResponse> some = new Listener<>();
    Listener<EntriesRequest, EntriesResponse> entries = new Listener<>();
    MultiMapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).build(), events);
    MultiMapGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).setKey("foo").build(), some);
    MultiMapGrpc.newStub(channel).entries(EntriesRequest.newBuilder().setId(id).setWatch(true).build(), entries);
    assertEquals(Event.getDefaultInstance(), events.next().getEvent());
    assertEquals(Event.newBuilder().setKey("foo").build(), some.next().getEvent());
    assertEquals(Set.of("a", "b"), Set.copyOf(entries.next().getEntry().getValuesList()));

    put(map, "foo", "a");
    put(map, "foo", "a");
    for (var stream : List.of(events, some)) {
      Event added = stream.next().getEvent();
      assertEquals("foo", added.getKey());
      assertEquals("a", added.getAdded().getValue());
    }
    assertEquals(entry("foo", "a"), entries.next().getEntry());
    assertEquals(Set.of("a"), replace(map, "foo", "a", "b"));
    assertEquals("b", events.next().getEvent().getAdded().getValue());
    assertEquals(Set.of("a", "b"), Set.copyOf(entries.next().getEntry().getValuesList()));
    assertEquals(Set.of("a", "b"), replace(map, "foo", "c"));
    assertEquals("c", events.next().getEvent().getAdded().getValue());
    Set<String> removed = new HashSet<>();
    removed.add(events.next().getEvent().getRemoved().getValue());
    removed.add(events.next().getEvent().getRemoved().getValue());
    assertEquals(Set.of("a", "b"), removed);
    assertEquals(entry("foo", "c"), entries.next().getEntry());
    remove(map, "foo", "c");
    assertEquals("c", events.next().getEvent().getRemoved().getValue());
    assertEquals(entry("foo"), entries.next().getEntry(), "a watch shows the new state: no values, no key");
    map.removeAll(RemoveAllRequest.newBuilder().setId(id).setKey("old").addValues("a").addValues("b").build());
    assertEquals("old", events.next().getEvent().getKey());
    assertEquals("old", events.next().getEvent().getKey());
    assertEquals(entry("old"), entries.next().getEntry());
    events.quiet();
    entries.quiet();

    MultiMapGrpc.newBlockingStub(channel).close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(events.rest().isEmpty());
    assertEquals(5, some.rest().size());
    assertTrue(entries.rest().isEmpty());
  }
}
