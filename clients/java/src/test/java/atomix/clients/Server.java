// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import atomix.runtime.v1.Primitive.PrimitiveId;
import atomix.runtime.v1.RuntimeGrpc;
import atomix.runtime.v1.RuntimeOuterClass.ProgramRequest;
import atomix.runtime.v1.RuntimeOuterClass.ProgramRoute;
import atomix.runtime.v1.RuntimeOuterClass.RoutingRule;
import atomix.runtime.v1.RuntimeOuterClass.StoreId;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** The running servers that the environment names, all on one store, and what every scenario needs of them. */
final class Server {
  /** A primitive created with this tag answers a configuration with the cache enabled. */
  static final String CACHED = "cached";

  /** A primitive created with this tag answers a configuration with a cache of three entries. */
  static final String LRU = "lru";

  private static final String ADDRS = "ATOMIX_TEST_ADDRS";
  private static final String CONTROL = "ATOMIX_TEST_CONTROL";
  private static final String STORE = "ATOMIX_TEST_STORE";

  /** A call that is not answered in this time fails with a message instead of hanging. */
  private static final long CALL_LIMIT_SECONDS = 20;

  private static boolean programmed;

  private Server() {}

  /**
   * Opens a connection of its own, as each channel of the Java SDK does.
   *
   * @param number which client of its scenario it is, from 0 on: each has a server of its own, as far as there are servers
   * @return the channel; the caller shuts it down
   */
  static ManagedChannel connect(int number) {
    String[] addrs = variable(ADDRS).split(",");
    program(variable(CONTROL).split(","));
    String addr = addrs[number % addrs.length].trim();
    return ManagedChannelBuilder.forTarget(addr).usePlaintext().intercept(new Limit()).build();
  }

  /** Returns an id that no other run uses. */
  static PrimitiveId freshId() {
    return PrimitiveId.newBuilder().setName("java-" + UUID.randomUUID()).build();
  }

  /** Returns a duration of the wire. */
  static Duration millis(long millis) {
    return Duration.newBuilder()
        .setSeconds(Math.floorDiv(millis, 1000L))
        .setNanos((int) Math.floorMod(millis, 1000L) * 1_000_000)
        .build();
  }

  /** Returns the bytes of a text. */
  static ByteString bytes(String text) {
    return ByteString.copyFromUtf8(text);
  }

  /** Runs a call and returns the code of its answer: the Java SDK decides by the code alone. */
  static Status.Code code(Runnable call) {
    try {
      call.run();
      return Status.Code.OK;
    } catch (RuntimeException e) {
      return Status.fromThrowable(e).getCode();
    }
  }

  private static String variable(String name) {
    String value = System.getenv(name);
    if (value == null || value.isBlank()) {
      throw new AssertionError(
          "the scenarios need running servers: set " + ADDRS + " to their host:port list and "
              + CONTROL + " to that of their control services; unset=" + name);
    }
    return value.trim();
  }

  /** Programs the same routes as the Go scenarios, so that both may use one server at a time. */
  private static synchronized void program(String[] controls) {
    if (programmed) {
      return;
    }
    String store = System.getenv().getOrDefault(STORE, "memory");
    for (String control : controls) {
      ManagedChannel channel =
          ManagedChannelBuilder.forTarget(control.trim()).usePlaintext().intercept(new Limit()).build();
      try {
        RuntimeGrpc.newBlockingStub(channel).withWaitForReady().program(ProgramRequest.newBuilder()
            .addRoutes(ProgramRoute.newBuilder()
                .setStoreId(StoreId.newBuilder().setName(store))
                .addRules(RoutingRule.newBuilder().addNames("*"))
                .addRules(RoutingRule.newBuilder().addNames("*").addTags(CACHED)
                    .setConfig(bytes("{\"cache\":{\"enabled\":true}}")))
                .addRules(RoutingRule.newBuilder().addNames("*").addTags(LRU)
                    .setConfig(bytes("{\"cache\":{\"enabled\":true,\"size\":3}}"))))
            .build());
      } finally {
        channel.shutdownNow();
      }
    }
    programmed = true;
  }

  /** Gives every call a deadline. */
  private static final class Limit implements ClientInterceptor {
    @Override
    public <Q, A> ClientCall<Q, A> interceptCall(
        MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
      CallOptions limited = options.getDeadline() == null
          ? options.withDeadlineAfter(CALL_LIMIT_SECONDS, TimeUnit.SECONDS)
          : options;
      return next.newCall(method, limited);
    }
  }
}
