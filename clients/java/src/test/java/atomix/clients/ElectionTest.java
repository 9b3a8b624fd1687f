// SPDX-License-Identifier: Apache-2.0
package atomix.clients;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import atomix.runtime.election.v1.Election.AnointRequest;
import atomix.runtime.election.v1.Election.DemoteRequest;
import atomix.runtime.election.v1.Election.EnterRequest;
import atomix.runtime.election.v1.Election.EvictRequest;
import atomix.runtime.election.v1.Election.GetTermRequest;
import atomix.runtime.election.v1.Election.PromoteRequest;
import atomix.runtime.election.v1.Election.Term;
import atomix.runtime.election.v1.Election.WatchRequest;
import atomix.runtime.election.v1.Election.WatchResponse;
import atomix.runtime.election.v1.Election.WithdrawRequest;
import atomix.runtime.election.v1.Elections.CloseRequest;
import atomix.runtime.election.v1.Elections.CreateRequest;
import atomix.runtime.election.v1.LeaderElectionGrpc;
import atomix.runtime.election.v1.LeaderElectionGrpc.LeaderElectionBlockingStub;
import atomix.runtime.v1.Primitive.PrimitiveId;
import io.grpc.ManagedChannel;
import java.util.List;
import org.junit.jupiter.api.Test;

/** What the election of the Java SDK relies on: its candidates are named per call. */
class ElectionTest extends Scenario {
  private final PrimitiveId id = Server.freshId();

  private LeaderElectionBlockingStub open(ManagedChannel channel) {
    var stub = LeaderElectionGrpc.newBlockingStub(channel);
    stub.create(CreateRequest.newBuilder().setId(id).build());
    return stub;
  }

  private LeaderElectionBlockingStub open() {
    return open(connect());
  }

  private Term enter(LeaderElectionBlockingStub election, String candidate) {
    return election.enter(EnterRequest.newBuilder().setId(id).setCandidate(candidate).build()).getTerm();
  }

  private Term withdraw(LeaderElectionBlockingStub election, String candidate) {
    return election.withdraw(WithdrawRequest.newBuilder().setId(id).setCandidate(candidate).build()).getTerm();
  }

  private Term anoint(LeaderElectionBlockingStub election, String candidate) {
    return election.anoint(AnointRequest.newBuilder().setId(id).setCandidate(candidate).build()).getTerm();
  }

  private Term promote(LeaderElectionBlockingStub election, String candidate) {
    return election.promote(PromoteRequest.newBuilder().setId(id).setCandidate(candidate).build()).getTerm();
  }

  private Term demote(LeaderElectionBlockingStub election, String candidate) {
    return election.demote(DemoteRequest.newBuilder().setId(id).setCandidate(candidate).build()).getTerm();
  }

  private Term evict(LeaderElectionBlockingStub election, String candidate) {
    return election.evict(EvictRequest.newBuilder().setId(id).setCandidate(candidate).build()).getTerm();
  }

  private Term getTerm(LeaderElectionBlockingStub election) {
    return election.getTerm(GetTermRequest.newBuilder().setId(id).build()).getTerm();
  }

  private Listener<WatchRequest, WatchResponse> listen(ManagedChannel channel) {
    Listener<WatchRequest, WatchResponse> terms = new Listener<>();
    LeaderElectionGrpc.newStub(channel).watch(WatchRequest.newBuilder().setId(id).build(), terms);
    return terms;
  }

  private static Term term(long number, String leader, String... waiting) {
    return Term.newBuilder().setTerm(number).setLeader(leader).addAllCandidates(List.of(waiting)).build();
  }

  @Test
  void ordersTheCandidates() throws Exception {
    var a = open();
    var b = open();
    ManagedChannel channel = connect();
    var observer = open(channel);
    var terms = listen(channel);
    assertEquals(term(0, ""), getTerm(observer));
    terms.quiet();

    assertEquals(term(1, "A"), enter(a, "A"));
    assertEquals(term(1, "A"), terms.next().getTerm());
    assertEquals(term(1, "A", "B"), enter(b, "B"));
    assertEquals(term(1, "A", "B"), terms.next().getTerm());
    assertEquals(term(1, "A", "B", "C"), enter(b, "C"));
    assertEquals(term(1, "A", "B", "C"), terms.next().getTerm());
    assertEquals(term(1, "A", "C", "B"), promote(observer, "C"));
    assertEquals(term(1, "A", "C", "B"), terms.next().getTerm());
    assertEquals(term(1, "A", "B", "C"), demote(observer, "C"));
    assertEquals(term(1, "A", "B", "C"), terms.next().getTerm());
    assertEquals(term(2, "C", "A", "B"), anoint(observer, "C"));
    assertEquals(term(2, "C", "A", "B"), terms.next().getTerm());
    assertEquals(term(2, "C", "B"), evict(observer, "A"));
    assertEquals(term(2, "C", "B"), terms.next().getTerm());
    // One session has two candidates: the named one leaves.
    assertEquals(term(2, "C"), withdraw(b, "B"));
    assertEquals(term(2, "C"), terms.next().getTerm());
    assertEquals(term(2, "C"), withdraw(a, "C"), "a candidate of another session stays");
    assertEquals(term(2, ""), withdraw(b, "C"));
    assertEquals(term(2, ""), terms.next().getTerm());
    assertEquals(term(3, "A"), enter(a, "A"));
    assertEquals(term(3, "A"), terms.next().getTerm());
    terms.quiet();
    assertEquals(term(3, "A"), listen(channel).next().getTerm());

    observer.close(CloseRequest.newBuilder().setId(id).build());
    assertTrue(terms.rest().isEmpty());
  }

  @Test
  void handsOverWhenTheConnectionEnds() throws Exception {
    ManagedChannel dying = connect();
    var leader = open(dying);
    enter(leader, "A");
    var next = open();
    assertEquals(term(1, "A", "B"), enter(next, "B"));
    drop(dying);
    soon("B leads", () -> getTerm(next).equals(term(2, "B")));
  }

  @Test
  void handsOverOnClose() {
    var leader = open();
    var next = open();
    enter(leader, "A");
    enter(next, "B");
    enter(next, "C");
    leader.close(CloseRequest.newBuilder().setId(id).build());
    assertEquals(term(2, "B", "C"), getTerm(next));
    next.close(CloseRequest.newBuilder().setId(id).build());
    assertEquals(2, getTerm(open()).getTerm(), "the term outlives its candidates");
  }

  @Test
  void namesACandidateWithoutAName() {
    var election = open();
    Term term = enter(election, "");
    assertFalse(term.getLeader().isEmpty());
    assertEquals(term, enter(election, ""));
  }

  @Test
  void answersTheCacheOfItsRoute() {
    var stub = LeaderElectionGrpc.newBlockingStub(connect());
    assertTrue(stub.create(CreateRequest.newBuilder().setId(id).addTags(Server.CACHED).build())
        .getConfig().getCache().getEnabled());
  }
}
