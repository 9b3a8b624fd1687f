// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import io.grpc.ManagedChannel;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.TestInstance;

/** What a class of scenarios shares: the connections of one scenario, and waiting with a limit. */
@TestInstance(TestInstance.Lifecycle.PER_METHOD)
abstract class Scenario {
  /** What was already caused arrives in milliseconds. The rest is for a loaded machine. */
  static final long MESSAGE_LIMIT_MILLIS = 5_000;

  private final List<ManagedChannel> channels = new ArrayList<>();

  /** Opens a connection that is closed with the scenario. */
  final ManagedChannel connect() {
    ManagedChannel channel = Server.connect(channels.size());
    channels.add(channel);
    return channel;
  }

  /** Ends a connection without a Close of any primitive, as the end of a process does. */
  static void drop(ManagedChannel channel) throws InterruptedException {
    channel.shutdownNow();
    if (!channel.awaitTermination(MESSAGE_LIMIT_MILLIS, TimeUnit.MILLISECONDS)) {
      throw new AssertionError("the channel did not terminate");
    }
  }

  /** Runs a call in the background. */
  static <T> CompletableFuture<T> later(Callable<T> call) throws InterruptedException {
    CompletableFuture<T> future = new CompletableFuture<>();
    Thread thread = new Thread(() -> {
      try {
        future.complete(call.call());
      } catch (Throwable t) {
        future.completeExceptionally(t);
      }
    });
    thread.setDaemon(true);
    thread.start();
    // The call needs a moment to reach the server.
    Thread.sleep(50);
    return future;
  }

  /** Waits for the result of a call in the background. */
  static <T> T result(CompletableFuture<T> future) throws Exception {
    try {
      return future.orTimeout(MESSAGE_LIMIT_MILLIS, TimeUnit.MILLISECONDS).join();
    } catch (CompletionException e) {
      if (e.getCause() instanceof TimeoutException) {
        throw new AssertionError("not answered within " + MESSAGE_LIMIT_MILLIS + " ms");
      }
      throw e.getCause() instanceof Exception cause ? cause : e;
    }
  }

  /** Waits until a condition holds. */
  static void soon(String what, Callable<Boolean> condition) throws Exception {
    long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(MESSAGE_LIMIT_MILLIS);
    while (!condition.call()) {
      if (System.nanoTime() > end) {
        throw new AssertionError("not within " + MESSAGE_LIMIT_MILLIS + " ms: " + what);
      }
      Thread.sleep(10);
    }
  }

  @AfterEach
  final void closeConnections() {
    channels.forEach(ManagedChannel::shutdownNow);
  }
}
