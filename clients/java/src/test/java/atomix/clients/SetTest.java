// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.set.v1.SetGrpc;
import atomix.runtime.set.v1.SetGrpc.SetBlockingStub;
import atomix.runtime.set.v1.SetOuterClass.AddRequest;
import atomix.runtime.set.v1.SetOuterClass.ClearRequest;
import atomix.runtime.set.v1.SetOuterClass.ContainsRequest;
import atomix.runtime.set.v1.SetOuterClass.Element;
import atomix.runtime.set.v1.SetOuterClass.ElementsRequest;
import atomix.runtime.set.v1.SetOuterClass.Event;
import atomix.runtime.set.v1.SetOuterClass.EventsRequest;
import atomix.runtime.set.v1.SetOuterClass.EventsResponse;
import atomix.runtime.set.v1.SetOuterClass.RemoveRequest;
import atomix.runtime.set.v1.SetOuterClass.SizeRequest;
import atomix.runtime.set.v1.SetsOuterClass.CloseRequest;
import atomix.runtime.set.v1.SetsOuterClass.CreateRequest;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.util.HashSet;
import java.util.Set;
import org.junit.jupiter.api.Test;

/** What the set of the Java SDK relies on: refusals are codes, not booleans. */
class SetTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private SetBlockingStub open(ManagedChannel channel) {
    var stub = SetGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private SetBlockingStub open() {
    return open(connect());
  }

  private static Element element(String value) {
    return Element.newBuilder().setValue(value).build();
  }

  private boolean add(SetBlockingStub set, AddRequest request) {
    Status.Code code = Server.code(() -> {
      var added = set.add(request);
      assertTrue(added.getAdded());
      assertEquals(request.getElement(), added.getElement());
    });
    assertTrue(code == Status.Code.OK || code == Status.Code.ALREADY_EXISTS, code.toString());
    return code == Status.Code.OK;
  }

  private boolean add(SetBlockingStub set, String value) {
    return add(set, AddRequest.newBuilder().setId(id).setElement(element(value)).build());
  }

  private boolean add(SetBlockingStub set, String value, long ttlMillis) {
    return add(set, AddRequest.newBuilder()
        .setId(id).setElement(element(value)).setTtl(Server.millis(ttlMillis)).build());
  }

  private boolean remove(SetBlockingStub set, String value) {
    Status.Code code = Server.code(() -> {
      var removed = set.remove(RemoveRequest.newBuilder().setId(id).setElement(element(value)).build());
      assertTrue(removed.getRemoved());
      assertEquals(element(value), removed.getElement());
    });
    assertTrue(code == Status.Code.OK || code == Status.Code.NOT_FOUND, code.toString());
    return code == Status.Code.OK;
  }

  private boolean contains(SetBlockingStub set, String value) {
    return set.contains(ContainsRequest.newBuilder().setId(id).setElement(element(value)).build()).getContains();
  }

  private int size(SetBlockingStub set) {
    return set.size(SizeRequest.newBuilder().setId(id).build()).getSize();
  }

  private Listener<EventsRequest, EventsResponse> listen(ManagedChannel channel) throws InterruptedException {
    Listener<EventsRequest, EventsResponse> events = new Listener<>();
    SetGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).build(), events);
    assertEquals(Event.EventCase.EVENT_NOT_SET, events.next().getEvent().getEventCase());
    return events;
  }

  @Test
  void addsAndRemoves() throws Exception {
    var set = open();
    ManagedChannel channel = connect();
    var other = open(channel);
    var events = listen(channel);
    assertTrue(add(set, "foo"));
    assertFalse(add(other, "foo"));
    assertTrue(add(other, "bar"));
    assertTrue(contains(set, "bar"));
    assertEquals(2, size(set));
    assertTrue(remove(other, "foo"));
    assertFalse(remove(set, "foo"));
    assertFalse(contains(set, "foo"));

    Set<String> content = new HashSet<>();
    set.elements(ElementsRequest.newBuilder().setId(id).build())
        .forEachRemaining(r -> content.add(r.getElement().getValue()));
    assertEquals(Set.of("bar"), content);
    set.clear(ClearRequest.newBuilder().setId(id).build());
    assertEquals(0, size(other));

    assertEquals(element("foo"), events.next().getEvent().getAdded().getElement());
    assertEquals(element("bar"), events.next().getEvent().getAdded().getElement());
    assertEquals(Event.Removed.newBuilder().setElement(element("foo")).build(),
        events.next().getEvent().getRemoved());
    assertEquals(Event.Removed.newBuilder().setElement(element("bar")).build(),
        events.next().getEvent().getRemoved());
    events.quiet();
    other.close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(events.rest().isEmpty());
    assertEquals(0, size(set));
  }

  @Test
  void expiresElements() throws Exception {
    ManagedChannel channel = connect();
    var set = open(channel);
    var events = listen(channel);
    assertTrue(add(set, "short", 300));
    assertEquals(element("short"), events.next().getEvent().getAdded().getElement());
    assertEquals(Event.Removed.newBuilder().setElement(element("short")).setExpired(true).build(),
        events.next().getEvent().getRemoved());
    assertFalse(contains(set, "short"));
    assertTrue(add(set, "short"));
  }
}
