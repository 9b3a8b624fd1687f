// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"testing"
	"time"

	"github.com/atomix/atomix/api/errors"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive/lock"
	"github.com/stretchr/testify/require"
)

// grant is the answer of a call to Lock that runs in the background.
type grant struct {
	version lock.Version
	err     error
}

// lockLater asks for a lock in the background and gives the call time to reach the queue.
func lockLater(ctx context.Context, l lock.Lock, opts ...lock.LockOption) <-chan grant {
	answer := make(chan grant, 1)
	go func() {
		version, err := l.Lock(ctx, opts...)
		answer <- grant{version, err}
	}()
	time.Sleep(50 * time.Millisecond)
	return answer
}

// granted waits for a lock and returns its token.
func granted(t *testing.T, answer <-chan grant) lock.Version {
	t.Helper()
	g := answered(t, answer)
	require.NoError(t, g.err)
	require.NotZero(t, g.version)
	return g.version
}

// answered waits for the answer of a call to Lock.
func answered(t *testing.T, answer <-chan grant) grant {
	t.Helper()
	select {
	case g := <-answer:
		return g
	case <-time.After(messageLimit):
		require.FailNowf(t, "the call to Lock was not answered", "waited %s", messageLimit)
	}
	panic("unreachable")
}

// waiting checks that a call to Lock has no answer yet.
func waiting(t *testing.T, answer <-chan grant) {
	t.Helper()
	select {
	case g := <-answer:
		require.FailNowf(t, "a call to Lock that must wait was answered", "%+v", g)
	case <-time.After(50 * time.Millisecond):
	}
}

// getLock opens a lock on a connection of its own.
func getLock(ctx context.Context, t *testing.T, name string) lock.Lock {
	t.Helper()
	return ok(client.Lock(open(t))(name).Get(ctx))(t)
}

func TestLockExcludesClients(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	first, second := getLock(ctx, t, name), getLock(ctx, t, name)

	version, err := first.Get(ctx)
	requireNotFound(t, err)
	require.Zero(t, version)

	one := ok(first.Lock(ctx))(t)
	require.NotZero(t, one)
	require.Equal(t, one, ok(first.Get(ctx))(t))
	require.Equal(t, one, ok(second.Get(ctx))(t), "everybody reads the token of the holder")

	answer := lockLater(ctx, second)
	waiting(t, answer)
	require.NoError(t, first.Unlock(ctx))
	two := granted(t, answer)
	require.Greater(t, two, one, "tokens grow")
	require.Equal(t, two, ok(first.Get(ctx))(t))
	require.Equal(t, two, ok(second.Get(ctx))(t))

	require.NoError(t, first.Close(ctx), "a client may close a lock that another holds")
	require.Equal(t, two, ok(second.Get(ctx))(t))
	require.NoError(t, second.Unlock(ctx))
	_, err = second.Get(ctx)
	requireNotFound(t, err)
	require.NoError(t, second.Close(ctx))
}

func TestLockIsNotReentrant(t *testing.T) {
	ctx := begin(t)
	holder := getLock(ctx, t, freshName())
	token := ok(holder.Lock(ctx))(t)

	start := time.Now()
	version, err := holder.Lock(ctx, lock.WithTimeout(300*time.Millisecond))
	requireConflict(t, err)
	require.Zero(t, version)
	require.GreaterOrEqual(t, time.Since(start), 250*time.Millisecond, "the timeout was not waited for")
	require.Less(t, time.Since(start), 2*time.Second, "the timeout is a real timer")
	require.Equal(t, token, ok(holder.Get(ctx))(t), "the holder keeps the lock")
}

func TestLockWithTimeoutZeroAnswersAtOnce(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	first, second := getLock(ctx, t, name), getLock(ctx, t, name)
	ok(first.Lock(ctx, lock.WithTimeout(0)))(t)

	start := time.Now()
	_, err := second.Lock(ctx, lock.WithTimeout(0))
	requireConflict(t, err)
	require.Less(t, time.Since(start), time.Second)
	_, err = second.Lock(ctx, lock.WithTimeout(-time.Second))
	requireConflict(t, err)
}

func TestLockHonoursTheDeadlineOfTheCaller(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	first, second := getLock(ctx, t, name), getLock(ctx, t, name)
	ok(first.Lock(ctx))(t)

	deadline, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := second.Lock(deadline)
	require.Truef(t, errors.IsConflict(err) || errors.IsTimeout(err), "expected ABORTED or DEADLINE_EXCEEDED, got %v", err)
}

func TestLockIsReleasedOnlyByItsHolder(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	first, second := getLock(ctx, t, name), getLock(ctx, t, name)

	requireConflict(t, first.Unlock(ctx))
	token := ok(first.Lock(ctx))(t)
	requireConflict(t, second.Unlock(ctx))
	require.Equal(t, token, ok(second.Get(ctx))(t))
	require.NoError(t, first.Unlock(ctx))
	requireConflict(t, first.Unlock(ctx))
}

func TestLockIsGrantedInOrderOfArrival(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	holder := getLock(ctx, t, name)
	last := ok(holder.Lock(ctx))(t)

	var waiters []lock.Lock
	var answers []<-chan grant
	for range make([]struct{}, 3) {
		waiter := getLock(ctx, t, name)
		waiters = append(waiters, waiter)
		answers = append(answers, lockLater(ctx, waiter))
	}
	for i, waiter := range waiters {
		for _, answer := range answers[i:] {
			waiting(t, answer)
		}
		require.NoError(t, holder.Unlock(ctx))
		token := granted(t, answers[i])
		require.Greater(t, token, last)
		holder, last = waiter, token
	}
}

func TestLockIsNotGrantedToACancelledCall(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	holder, impatient, third := getLock(ctx, t, name), getLock(ctx, t, name), getLock(ctx, t, name)
	ok(holder.Lock(ctx))(t)

	short, cancel := context.WithCancel(ctx)
	answer := lockLater(short, impatient)
	cancel()
	g := answered(t, answer)
	require.Truef(t, errors.IsCanceled(g.err), "expected CANCELLED, got %v", g.err)
	// The server learns of the cancellation a moment after the client returned.
	time.Sleep(50 * time.Millisecond)

	require.NoError(t, holder.Unlock(ctx))
	_, err := holder.Get(ctx)
	requireNotFound(t, err)
	ok(third.Lock(ctx, lock.WithTimeout(0)))(t)
}

func TestLockPassesOnWhenItsHolderCloses(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	holder, waiter, third := getLock(ctx, t, name), getLock(ctx, t, name), getLock(ctx, t, name)
	one := ok(holder.Lock(ctx))(t)
	answer := lockLater(ctx, waiter)

	require.NoError(t, holder.Close(ctx))
	two := granted(t, answer)
	require.Greater(t, two, one)
	require.Equal(t, two, ok(third.Get(ctx))(t))
}

func TestLockEndsTheWaitOfAClientThatCloses(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	holder, waiter := getLock(ctx, t, name), getLock(ctx, t, name)
	token := ok(holder.Lock(ctx))(t)
	answer := lockLater(ctx, waiter)

	require.NoError(t, waiter.Close(ctx))
	g := answered(t, answer)
	require.Truef(t, errors.IsCanceled(g.err), "expected CANCELLED, got %v", g.err)
	require.Equal(t, token, ok(holder.Get(ctx))(t), "the close of a waiter leaves the holder alone")
}

func TestLockIsNotStolenByTheEndOfAFormerHolder(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	former, holder, third := getLock(ctx, t, name), getLock(ctx, t, name), getLock(ctx, t, name)
	ok(former.Lock(ctx))(t)
	require.NoError(t, former.Unlock(ctx))
	token := ok(holder.Lock(ctx))(t)

	require.NoError(t, former.Close(ctx))
	require.Equal(t, token, ok(holder.Get(ctx))(t))
	_, err := third.Lock(ctx, lock.WithTimeout(0))
	requireConflict(t, err)
}

func TestLockIsFreedByTheEndOfAConnection(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	dying := open(t)
	holder := ok(client.Lock(dying)(name).Get(ctx))(t)
	second, third := getLock(ctx, t, name), getLock(ctx, t, name)
	one := ok(holder.Lock(ctx))(t)
	answer := lockLater(ctx, second)

	start := time.Now()
	require.NoError(t, dying.Close())
	two := granted(t, answer)
	require.Less(t, time.Since(start), time.Second)
	require.Greater(t, two, one)

	require.NoError(t, second.Unlock(ctx))
	three := ok(third.Lock(ctx, lock.WithTimeout(time.Second)))(t)
	require.Greater(t, three, two)
}

func TestLockIsNotGrantedToALostConnection(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	holder, third := getLock(ctx, t, name), getLock(ctx, t, name)
	ok(holder.Lock(ctx))(t)

	dying := open(t)
	waiter := ok(client.Lock(dying)(name).Get(ctx))(t)
	answer := lockLater(ctx, waiter)
	require.NoError(t, dying.Close())
	require.Error(t, answered(t, answer).err)
	time.Sleep(50 * time.Millisecond)

	require.NoError(t, holder.Unlock(ctx))
	ok(third.Lock(ctx, lock.WithTimeout(time.Second)))(t)
}
