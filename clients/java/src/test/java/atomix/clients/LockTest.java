// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.lock.v1.LockGrpc;
import atomix.runtime.lock.v1.LockGrpc.LockBlockingStub;
import atomix.runtime.lock.v1.LockOuterClass.GetLockRequest;
import atomix.runtime.lock.v1.LockOuterClass.LockRequest;
import atomix.runtime.lock.v1.LockOuterClass.UnlockRequest;
import atomix.runtime.lock.v1.LocksOuterClass.CloseRequest;
import atomix.runtime.lock.v1.LocksOuterClass.CreateRequest;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import java.util.OptionalLong;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Test;

/** What the lock of the Java SDK relies on. */
class LockTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private LockBlockingStub open(ManagedChannel channel) {
    var stub = LockGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private LockBlockingStub open() {
    return open(connect());
  }

  /** Waits for ever: the SDK sends no timeout. */
  private long lock(LockBlockingStub lock) {
    return lock.lock(LockRequest.newBuilder().setId(id).build()).getVersion();
  }

  /** Waits for a time; 0 tries once. */
  private OptionalLong tryLock(LockBlockingStub lock, long millis) {
    long[] version = new long[1];
    Status.Code code = Server.code(() -> version[0] = lock.lock(
        LockRequest.newBuilder().setId(id).setTimeout(Server.millis(millis)).build()).getVersion());
    if (code == Status.Code.ABORTED) {
      return OptionalLong.empty();
    }
    assertEquals(Status.Code.OK, code);
    return OptionalLong.of(version[0]);
  }

  private Status.Code unlock(LockBlockingStub lock) {
    return Server.code(() -> lock.unlock(UnlockRequest.newBuilder().setId(id).build()));
  }

  private boolean isLocked(LockBlockingStub lock) {
    Status.Code code = Server.code(() -> lock.getLock(GetLockRequest.newBuilder().setId(id).build()));
    assertTrue(code == Status.Code.OK || code == Status.Code.NOT_FOUND, code.toString());
    return code == Status.Code.OK;
  }

  @Test
  void excludesOthers() throws Exception {
    var first = open();
    var second = open();
    assertFalse(isLocked(first));
    long one = lock(first);
    assertTrue(one > 0);
    assertTrue(isLocked(second));
    assertEquals(Status.Code.ABORTED, unlock(second));

    CompletableFuture<Long> waiting = later(() -> lock(second));
    assertFalse(waiting.isDone());
    assertEquals(Status.Code.OK, unlock(first));
    long two = result(waiting);
    assertTrue(two > one);
    assertEquals(two, first.getLock(GetLockRequest.newBuilder().setId(id).build()).getVersion());
    assertEquals(Status.Code.OK, unlock(second));
    assertFalse(isLocked(first));
    assertEquals(Status.Code.ABORTED, unlock(second));
  }

  @Test
  void triesOnceWithoutWaiting() {
    var first = open();
    var second = open();
    assertTrue(tryLock(first, 0).isPresent());
    long start = System.nanoTime();
    assertTrue(tryLock(second, 0).isEmpty());
    assertTrue(System.nanoTime() - start < 1_000_000_000L, "an idle server answers at once");
  }

  @Test
  void waitsNoLongerThanItsTimeout() throws Exception {
    var first = open();
    var second = open();
    assertTrue(tryLock(first, 300).isPresent());
    long start = System.nanoTime();
    assertTrue(tryLock(second, 300).isEmpty());
    long waited = (System.nanoTime() - start) / 1_000_000;
    assertTrue(waited >= 280 && waited < 2_000, "waited " + waited + " ms");

    CompletableFuture<OptionalLong> patient = later(() -> tryLock(second, 4_000));
    assertEquals(Status.Code.OK, unlock(first));
    assertTrue(result(patient).isPresent());
  }

  @Test
  void passesOnWhenTheHolderCloses() throws Exception {
    var first = open();
    var second = open();
    lock(first);
    CompletableFuture<Long> waiting = later(() -> lock(second));
    first.close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(result(waiting) > 0);
  }

  @Test
  void passesOnWhenTheConnectionEnds() throws Exception {
    ManagedChannel dying = connect();
    long one = lock(open(dying));
    var second = open();
    long start = System.nanoTime();
    drop(dying);
    OptionalLong two = tryLock(second, 1_000);
    assertTrue(two.isPresent(), "not free 1 s after the end of the connection");
    assertTrue(two.getAsLong() > one);
    assertTrue(System.nanoTime() - start < 2_000_000_000L);
  }
}
