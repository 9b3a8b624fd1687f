// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.v1.Primitive.PrimitiveId;
import atomix.runtime.value.v1.ValueGrpc;
import atomix.runtime.value.v1.ValueGrpc.ValueBlockingStub;
import atomix.runtime.value.v1.ValueOuterClass.DeleteRequest;
import atomix.runtime.value.v1.ValueOuterClass.Event;
import atomix.runtime.value.v1.ValueOuterClass.EventsRequest;
import atomix.runtime.value.v1.ValueOuterClass.EventsResponse;
import atomix.runtime.value.v1.ValueOuterClass.GetRequest;
import atomix.runtime.value.v1.ValueOuterClass.SetRequest;
import atomix.runtime.value.v1.ValueOuterClass.UpdateRequest;
import atomix.runtime.value.v1.ValueOuterClass.VersionedValue;
import atomix.runtime.value.v1.ValuesOuterClass.CloseRequest;
import atomix.runtime.value.v1.ValuesOuterClass.CreateRequest;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import org.junit.jupiter.api.Test;

/** What the value of the Java SDK relies on. */
class ValueTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private ValueBlockingStub open(ManagedChannel channel) {
    var stub = ValueGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private VersionedValue get(ValueBlockingStub value) {
    return value.get(GetRequest.newBuilder().setId(id).build()).getValue();
  }

  private VersionedValue set(ValueBlockingStub value, String text) {
    long version = value.set(SetRequest.newBuilder().setId(id).setValue(Server.bytes(text)).build()).getVersion();
    return versioned(text, version);
  }

  /** Replaces a version; the SDK reports the value before and takes ABORTED for "another version". */
  private VersionedValue replace(ValueBlockingStub value, String text, long version) {
    return value.update(UpdateRequest.newBuilder()
        .setId(id).setValue(Server.bytes(text)).setPrevVersion(version).build()).getPrevValue();
  }

  private static VersionedValue versioned(String text, long version) {
    return VersionedValue.newBuilder().setValue(Server.bytes(text)).setVersion(version).build();
  }

  @Test
  void isSetAndReplaced() throws Exception {
    ManagedChannel channel = connect();
    var value = open(channel);
    var other = open(connect());
    Listener<EventsRequest, EventsResponse> events = new Listener<>();
    ValueGrpc.newStub(channel).events(EventsRequest.newBuilder().setId(id).build(), events);
    assertEquals(Event.EventCase.EVENT_NOT_SET, events.next().getEvent().getEventCase());

    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> get(value)));
    assertEquals(Status.Code.NOT_FOUND, Server.code(() -> replace(value, "none", 1)));
    VersionedValue one = set(other, "one");
    assertTrue(one.getVersion() > 0);
    assertEquals(one, get(value));
    assertEquals(one, events.next().getEvent().getCreated().getValue());

    VersionedValue two = set(other, "two");
    assertTrue(two.getVersion() > one.getVersion());
    assertEquals(Event.Updated.newBuilder().setValue(two).setPrevValue(one).build(),
        events.next().getEvent().getUpdated());
    assertEquals(Status.Code.ABORTED, Server.code(() -> replace(other, "three", one.getVersion())));
    assertEquals(two, get(value), "a refused write changes nothing");
    assertEquals(two, replace(other, "three", two.getVersion()));
    VersionedValue three = get(value);
    assertEquals(Server.bytes("three"), three.getValue());
    assertEquals(Event.Updated.newBuilder().setValue(three).setPrevValue(two).build(),
        events.next().getEvent().getUpdated());

    assertEquals(three, other.delete(DeleteRequest.newBuilder().setId(id).build()).getValue());
    Event.Deleted deleted = events.next().getEvent().getDeleted();
    assertEquals(Server.bytes("three"), deleted.getValue().getValue());
    assertTrue(deleted.getValue().getVersion() != 0, "0 would mean that nothing was deleted");
    assertFalse(deleted.getExpired());
    events.quiet();
    value.close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(events.rest().isEmpty());
  }

  @Test
  void expires() throws Exception {
    var value = open(connect());
    value.set(SetRequest.newBuilder()
        .setId(id).setValue(Server.bytes("short")).setTtl(Server.millis(300)).build());
    soon("the value is unset", () -> Server.code(() -> get(value)) == Status.Code.NOT_FOUND);
  }

  @Test
  void answersTheCacheOfItsRoute() {
    var stub = ValueGrpc.newBlockingStub(connect());
    assertFalse(stub.create(CreateRequest.newBuilder().setId(Server.freshId()).build())
        .getConfig().getCache().getEnabled());
    assertTrue(stub.create(CreateRequest.newBuilder().setId(id).addTags(Server.CACHED).build())
        .getConfig().getCache().getEnabled());
  }
}
