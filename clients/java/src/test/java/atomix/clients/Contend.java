// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import atomix.runtime.countermap.v1.CounterMapGrpc;
import atomix.runtime.countermap.v1.Countermap;
import atomix.runtime.countermap.v1.Countermaps;
import atomix.runtime.election.v1.Election;
import atomix.runtime.election.v1.Elections;
import atomix.runtime.election.v1.LeaderElectionGrpc;
import atomix.runtime.lock.v1.LockGrpc;
import atomix.runtime.lock.v1.LockOuterClass;
import atomix.runtime.lock.v1.LocksOuterClass;
import atomix.runtime.map.v1.MapGrpc;
import atomix.runtime.map.v1.MapOuterClass;
import atomix.runtime.map.v1.MapsOuterClass;
import atomix.runtime.v1.Primitive.PrimitiveId;
import com.google.common.util.concurrent.ListenableFuture;
import com.google.protobuf.Duration;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Callers of grpc-java that compete for locks and leaderships, and give up in bad moments.
 *
 * <p>The arguments, the modes and the output are described in clients/README.md, section "Contention".
 */
public final class Contend {
  /** Programs that compile as they go need longer for their first calls than any margin of a deadline. */
  private static final long WARM_UP_MILLIS = 2000;

  private static final ScheduledExecutorService TIMER = Executors.newSingleThreadScheduledExecutor();

  private static final AtomicLong GRANTED = new AtomicLong();
  private static final AtomicLong REFUSED = new AtomicLong();
  private static final AtomicLong CUT = new AtomicLong();
  private static final AtomicLong FAILED = new AtomicLong();

  private final String addr;
  private final String kind;
  private final String mode;
  private final long end;
  private final Random random;
  private final PrimitiveId id;
  private final String name;
  private final String candidate;
  private ManagedChannel channel;

  private Contend(String[] arguments, int number, long end) {
    String[] addrs = arguments[0].split(",");
    addr = addrs[number % addrs.length];
    kind = arguments[1];
    mode = arguments[2];
    String prefix = arguments[3];
    // Every fifth caller competes for name 0, the others are spread over the rest.
    int rest = Integer.parseInt(arguments[4]) - 1;
    name = prefix + "-" + (number % 5 == 0 ? 0 : 1 + number % rest);
    candidate = prefix + "-java-" + number;
    boolean own = kind.equals("lock") || kind.equals("election");
    id = PrimitiveId.newBuilder().setName(own ? name : prefix).build();
    random = new Random(Long.parseLong(arguments[7]) * 1000 + number);
    this.end = end;
  }

  /** Runs the callers, and keeps their connections open until the standard input ends. */
  public static void main(String[] arguments) throws Exception {
    long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(Long.parseLong(arguments[6]));
    List<Thread> threads = new ArrayList<>();
    for (int number = 0; number < Integer.parseInt(arguments[5]); number++) {
      Contend caller = new Contend(arguments, number, end);
      Thread thread = new Thread(caller::run);
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) {
      thread.join();
    }
    System.out.println("granted=" + GRANTED + " refused=" + REFUSED + " cut=" + CUT + " failed=" + FAILED);
    System.in.readAllBytes();
    System.exit(0);
  }

  private double between(double min, double max) {
    return min + (max - min) * random.nextDouble();
  }

  private boolean isOver() {
    return System.nanoTime() - end >= 0;
  }

  private static void pause(double millis) {
    try {
      TimeUnit.MICROSECONDS.sleep((long) (millis * 1000));
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  private void run() {
    open();
    long begun = System.nanoTime();
    while (channel != null && !isOver()) {
      boolean warm = System.nanoTime() - begun > TimeUnit.MILLISECONDS.toNanos(WARM_UP_MILLIS);
      Status.Code code = take(between(100, 400) + (warm ? 0 : WARM_UP_MILLIS));
      if (mode.equals("cut") && random.nextInt(30) == 0) {
        CUT.incrementAndGet();
        open();
        continue;
      }
      switch (code) {
        case OK -> {
          GRANTED.incrementAndGet();
          pause(between(1, 8));
          if (!released()) {
            FAILED.incrementAndGet();
            open();
          }
        }
        case ABORTED, DEADLINE_EXCEEDED, CANCELLED -> {
          REFUSED.incrementAndGet();
          // The lock may have been granted before: applications that cancel have to give it back.
          if (mode.equals("cancel") && !released()) {
            open();
          }
        }
        default -> {
          FAILED.incrementAndGet();
          pause(between(5, 50));
        }
      }
    }
  }

  private void open() {
    if (channel != null) {
      channel.shutdownNow();
    }
    channel = null;
    while (channel == null && !isOver()) {
      ManagedChannel opened = ManagedChannelBuilder.forTarget(addr).usePlaintext().build();
      channel = opened;
      if (create() != Status.Code.OK) {
        opened.shutdownNow();
        channel = null;
        pause(50);
      }
    }
  }

  private Status.Code create() {
    return switch (kind) {
      case "lock" -> code(LockGrpc.getCreateMethod(), LocksOuterClass.CreateRequest.newBuilder().setId(id).build(), 2000, -1);
      case "map" -> code(MapGrpc.getCreateMethod(), MapsOuterClass.CreateRequest.newBuilder().setId(id).build(), 2000, -1);
      case "countermap" ->
          code(CounterMapGrpc.getCreateMethod(), Countermaps.CreateRequest.newBuilder().setId(id).build(), 2000, -1);
      default ->
          code(LeaderElectionGrpc.getCreateMethod(), Elections.CreateRequest.newBuilder().setId(id).build(), 2000, -1);
    };
  }

  private Status.Code take(double deadline) {
    double timeout = switch (mode) {
      case "shorter" -> 4 * deadline;
      case "cancel" -> 10_000;
      default -> deadline;
    };
    double limit = mode.equals("cancel") ? -1 : deadline;
    double cancelAfter = mode.equals("cancel") ? deadline : -1;
    Duration wire = Duration.newBuilder().setSeconds((long) timeout / 1000)
        .setNanos((int) (timeout % 1000 * 1e6)).build();
    return switch (kind) {
      case "lock" -> code(LockGrpc.getLockMethod(),
          LockOuterClass.LockRequest.newBuilder().setId(id).setTimeout(wire).build(), limit, cancelAfter);
      case "map" -> code(MapGrpc.getLockMethod(),
          MapOuterClass.LockRequest.newBuilder().setId(id).addKeys(name).setTimeout(wire).build(), limit, cancelAfter);
      case "countermap" -> code(CounterMapGrpc.getLockMethod(),
          Countermap.LockRequest.newBuilder().setId(id).addKeys(name).setTimeout(wire).build(), limit, cancelAfter);
      default -> code(LeaderElectionGrpc.getEnterMethod(),
          Election.EnterRequest.newBuilder().setId(id).setCandidate(candidate).build(), limit, cancelAfter);
    };
  }

  private Status.Code release() {
    return switch (kind) {
      case "lock" -> code(LockGrpc.getUnlockMethod(), LockOuterClass.UnlockRequest.newBuilder().setId(id).build(), 2000, -1);
      case "map" -> code(MapGrpc.getUnlockMethod(),
          MapOuterClass.UnlockRequest.newBuilder().setId(id).addKeys(name).build(), 2000, -1);
      case "countermap" -> code(CounterMapGrpc.getUnlockMethod(),
          Countermap.UnlockRequest.newBuilder().setId(id).addKeys(name).build(), 2000, -1);
      default -> code(LeaderElectionGrpc.getWithdrawMethod(),
          Election.WithdrawRequest.newBuilder().setId(id).setCandidate(candidate).build(), 2000, -1);
    };
  }

  /** Gives back what is held, however often that takes: an answer may be lost. */
  private boolean released() {
    while (true) {
      Status.Code code = release();
      if (code == Status.Code.OK || code == Status.Code.ABORTED) {
        return true;
      }
      if (isOver()) {
        return false;
      }
      pause(20);
    }
  }

  /** Makes a call with a deadline in milliseconds, or cancels it after so many; negative is never. */
  private <Q, A> Status.Code code(MethodDescriptor<Q, A> method, Q request, double deadline, double cancelAfter) {
    CallOptions options = CallOptions.DEFAULT;
    if (deadline >= 0) {
      options = options.withDeadlineAfter((long) (deadline * 1000), TimeUnit.MICROSECONDS);
    }
    ListenableFuture<A> answer = ClientCalls.futureUnaryCall(channel.newCall(method, options), request);
    if (cancelAfter >= 0) {
      TIMER.schedule(() -> answer.cancel(true), (long) (cancelAfter * 1000), TimeUnit.MICROSECONDS);
    }
    try {
      answer.get();
      return Status.Code.OK;
    } catch (CancellationException e) {
      return Status.Code.CANCELLED;
    } catch (ExecutionException e) {
      return Status.fromThrowable(e).getCode();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }
}
