// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Receives a stream the way the listeners and iterators of the Java SDK do. */
final class Listener<Q, A> implements ClientResponseObserver<Q, A> {
  private static final long SILENCE_MILLIS = 150;

  private final LinkedBlockingQueue<A> messages = new LinkedBlockingQueue<>();
  private final CompletableFuture<Throwable> end = new CompletableFuture<>();
  private volatile ClientCallStreamObserver<Q> call;

  @Override
  public void beforeStart(ClientCallStreamObserver<Q> call) {
    this.call = call;
  }

  @Override
  public void onNext(A message) {
    messages.add(message);
  }

  @Override
  public void onError(Throwable t) {
    end.complete(t);
  }

  @Override
  public void onCompleted() {
    end.complete(null);
  }

  /** Returns the next message. */
  A next() throws InterruptedException {
    A message = messages.poll(Scenario.MESSAGE_LIMIT_MILLIS, TimeUnit.MILLISECONDS);
    if (message == null) {
      throw new AssertionError("no message; the stream has ended=" + end.isDone() + " with=" + end.getNow(null));
    }
    return message;
  }

  /** Checks that the stream is open and sends nothing. */
  void quiet() throws InterruptedException {
    A message = messages.poll(SILENCE_MILLIS, TimeUnit.MILLISECONDS);
    if (message != null) {
      throw new AssertionError("a message too many: " + message);
    }
    if (end.isDone()) {
      throw new AssertionError("the stream ended with=" + end.getNow(null));
    }
  }

  /** Returns what the stream still sends, and checks that it ends without an error. */
  List<A> rest() throws Exception {
    Throwable error = end.get(Scenario.MESSAGE_LIMIT_MILLIS, TimeUnit.MILLISECONDS);
    if (error != null) {
      throw new AssertionError("the stream ended with an error", error);
    }
    List<A> rest = new ArrayList<>();
    messages.drainTo(rest);
    return rest;
  }

  /** Cancels the stream. */
  void cancel() {
    call.cancel("not listened to any more", null);
  }
}
