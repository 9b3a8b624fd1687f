// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"testing"
	"time"

	electionv1 "github.com/atomix/atomix/api/runtime/election/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive/election"
	"github.com/stretchr/testify/require"
)

// term states what a term must look like; the waiting candidates do not include the leader.
type term struct {
	number  uint64
	leader  string
	waiting []string
}

// matches checks a term of the SDK.
func (expected term) matches(t *testing.T, got *election.Term, err error) {
	t.Helper()
	require.NoError(t, err)
	require.Equal(t, expected, plain(got))
}

// plain turns a term of the SDK into a comparable one.
func plain(got *election.Term) term {
	waiting := got.Candidates
	if len(waiting) == 0 {
		waiting = nil
	}
	return term{got.ID, got.Leader, waiting}
}

// is builds an expectation.
func is(number uint64, leader string, waiting ...string) term {
	return term{number, leader, waiting}
}

// candidate opens an election on a connection of its own.
func candidate(ctx context.Context, t *testing.T, name, candidateID string) election.Election {
	t.Helper()
	return ok(client.LeaderElection(open(t))(name).CandidateID(candidateID).Get(ctx))(t)
}

// watchTerms records the terms that a client sees.
func watchTerms(ctx context.Context, t *testing.T, e election.Election) *tape[*election.Term] {
	t.Helper()
	return record[*election.Term](ok(e.Watch(ctx))(t))
}

// sees checks the next message of a watch.
func sees(t *testing.T, terms *tape[*election.Term], expected term) {
	t.Helper()
	require.Equal(t, expected, plain(terms.next(t)))
}

func TestElectionFollowsTheWorkedExample(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a, b, c := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B"), candidate(ctx, t, name, "C")
	observer := candidate(ctx, t, name, "observer")
	require.Equal(t, "A", a.CandidateID())
	terms := watchTerms(ctx, t, observer)

	step := func(expected term) func(*election.Term, error) {
		return func(got *election.Term, err error) {
			t.Helper()
			expected.matches(t, got, err)
			sees(t, terms, expected)
		}
	}
	got, err := a.GetTerm(ctx)
	is(0, "").matches(t, got, err)
	terms.quiet(t)

	step(is(1, "A"))(a.Enter(ctx))
	step(is(1, "A", "B"))(b.Enter(ctx))
	step(is(1, "A", "B", "C"))(c.Enter(ctx))
	step(is(1, "A", "C", "B"))(c.Promote(ctx, "C"))
	step(is(2, "C", "A", "B"))(c.Promote(ctx, "C"))
	step(is(3, "B", "C", "A"))(a.Anoint(ctx, "B"))
	step(is(4, "C", "A"))(b.Leave(ctx))
	step(is(5, "A"))(b.Evict(ctx, "C"))
	step(is(5, "A", "B"))(b.Enter(ctx))
	step(is(6, "B", "A"))(a.Anoint(ctx, "B"))
	require.NoError(t, b.Close(ctx))
	sees(t, terms, is(7, "A"))
	require.NoError(t, a.Close(ctx))
	sees(t, terms, is(7, ""))
	require.NoError(t, c.Close(ctx))
	terms.quiet(t)
	require.NoError(t, observer.Close(ctx))
	require.Empty(t, terms.rest(t), "the close of a client ends its watch")

	for _, reopened := range []election.Election{candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B")} {
		got, err := reopened.GetTerm(ctx)
		is(7, "").matches(t, got, err)
	}
}

func TestElectionWatchStartsWithTheCurrentTerm(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a, b := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B")
	ok(a.Enter(ctx))(t)
	ok(b.Enter(ctx))(t)

	terms := watchTerms(ctx, t, b)
	sees(t, terms, is(1, "A", "B"))
	terms.quiet(t)

	ok(a.Leave(ctx))(t)
	sees(t, terms, is(2, "B"))
	got, err := b.Leave(ctx)
	is(2, "").matches(t, got, err)
	sees(t, terms, is(2, ""))
	sees(t, watchTerms(ctx, t, a), is(2, ""))
}

func TestElectionAnswersWhatIsNotPossibleWithTheTerm(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a, b := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B")
	for _, call := range []func(context.Context, string) (*election.Term, error){a.Anoint, a.Promote, a.Evict} {
		got, err := call(ctx, "nobody")
		is(0, "").matches(t, got, err)
	}
	got, err := a.Leave(ctx)
	is(0, "").matches(t, got, err)

	ok(a.Enter(ctx))(t)
	ok(b.Enter(ctx))(t)
	terms := watchTerms(ctx, t, a)
	sees(t, terms, is(1, "A", "B"))
	for _, call := range []func(context.Context, string) (*election.Term, error){a.Anoint, a.Promote, a.Evict} {
		got, err := call(ctx, "nobody")
		is(1, "A", "B").matches(t, got, err)
	}
	got, err = b.Anoint(ctx, "A")
	is(1, "A", "B").matches(t, got, err)
	got, err = b.Promote(ctx, "A")
	is(1, "A", "B").matches(t, got, err)
	// A repeated Enter, as after a lost answer, must not queue twice.
	got, err = a.Enter(ctx)
	is(1, "A", "B").matches(t, got, err)
	got, err = b.Enter(ctx)
	is(1, "A", "B").matches(t, got, err)
	terms.quiet(t)
}

func TestElectionWithdrawsAWaitingCandidate(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a, b, c := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B"), candidate(ctx, t, name, "C")
	ok(a.Enter(ctx))(t)
	ok(b.Enter(ctx))(t)
	ok(c.Enter(ctx))(t)

	got, err := b.Leave(ctx)
	is(1, "A", "C").matches(t, got, err)
	got, err = b.Leave(ctx)
	is(1, "A", "C").matches(t, got, err)
}

func TestElectionAnointsFromTheMiddleOfTheQueue(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a := candidate(ctx, t, name, "A")
	ok(a.Enter(ctx))(t)
	for _, waiting := range []string{"B", "C", "D"} {
		ok(candidate(ctx, t, name, waiting).Enter(ctx))(t)
	}
	got, err := a.Anoint(ctx, "C")
	is(2, "C", "A", "B", "D").matches(t, got, err)
	got, err = a.Evict(ctx, "B")
	is(2, "C", "A", "D").matches(t, got, err)
}

func TestElectionDemotes(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a, b, c := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B"), candidate(ctx, t, name, "C")
	ok(a.Enter(ctx))(t)
	ok(b.Enter(ctx))(t)
	ok(c.Enter(ctx))(t)
	terms := watchTerms(ctx, t, a)
	sees(t, terms, is(1, "A", "B", "C"))

	// The SDK has no method for it, so the call goes over a connection of its own, with a handle of its own.
	conn := dial(t)
	ok(electionv1.NewLeaderElectionsClient(conn).Create(ctx, &electionv1.CreateRequest{ID: id(name)}))(t)
	demote := func(candidate string, expected term) {
		t.Helper()
		response := ok(electionv1.NewLeaderElectionClient(conn).Demote(ctx,
			&electionv1.DemoteRequest{ID: id(name), Candidate: candidate}))(t)
		waiting := response.Term.Candidates
		if len(waiting) == 0 {
			waiting = nil
		}
		require.Equal(t, expected, term{response.Term.Term, response.Term.Leader, waiting})
	}
	demote("B", is(1, "A", "C", "B"))
	sees(t, terms, is(1, "A", "C", "B"))
	demote("B", is(1, "A", "C", "B"))
	demote("nobody", is(1, "A", "C", "B"))
	terms.quiet(t)
	demote("A", is(2, "C", "A", "B"))
	sees(t, terms, is(2, "C", "A", "B"))
}

func TestElectionHandsOverWhenTheConnectionOfTheLeaderEnds(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	dying := open(t)
	a := ok(client.LeaderElection(dying)(name).CandidateID("A").Get(ctx))(t)
	b, c := candidate(ctx, t, name, "B"), candidate(ctx, t, name, "C")
	ok(a.Enter(ctx))(t)
	ok(b.Enter(ctx))(t)
	ok(c.Enter(ctx))(t)
	terms := watchTerms(ctx, t, c)
	sees(t, terms, is(1, "A", "B", "C"))

	start := time.Now()
	require.NoError(t, dying.Close())
	sees(t, terms, is(2, "B", "C"))
	require.Less(t, time.Since(start), time.Second)
	got, err := b.GetTerm(ctx)
	is(2, "B", "C").matches(t, got, err)
}

func TestElectionCloseKeepsTheCandidatesOfOthers(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	a, b, c := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "B"), candidate(ctx, t, name, "C")
	ok(a.Enter(ctx))(t)
	ok(b.Enter(ctx))(t)
	ok(c.Enter(ctx))(t)
	terms := watchTerms(ctx, t, a)
	sees(t, terms, is(1, "A", "B", "C"))

	require.NoError(t, b.Close(ctx))
	sees(t, terms, is(1, "A", "C"))
	got, err := c.GetTerm(ctx)
	is(1, "A", "C").matches(t, got, err)
}

func TestElectionTakesACandidateOverFromAnOlderSession(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	old, renewed := candidate(ctx, t, name, "A"), candidate(ctx, t, name, "A")
	leader := candidate(ctx, t, name, "L")
	ok(leader.Enter(ctx))(t)
	ok(old.Enter(ctx))(t)
	got, err := renewed.Enter(ctx)
	is(1, "L", "A").matches(t, got, err)

	require.NoError(t, old.Close(ctx))
	got, err = leader.GetTerm(ctx)
	is(1, "L", "A").matches(t, got, err)
}
