// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"math"
	"testing"

	"github.com/atomix/go-sdk/pkg/client"
	"github.com/stretchr/testify/require"
)

func TestCounterCounts(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	first, second := open(t), open(t)

	counter := ok(client.Counter(first)(name).Get(ctx))(t)
	require.Equal(t, name, counter.Name())
	require.Equal(t, int64(0), ok(counter.Get(ctx))(t))

	for _, value := range []int64{1, -1} {
		require.NoError(t, counter.Set(ctx, value))
		require.Equal(t, value, ok(counter.Get(ctx))(t))
	}
	require.Equal(t, int64(0), ok(counter.Increment(ctx, 1))(t))
	require.Equal(t, int64(-10), ok(counter.Decrement(ctx, 10))(t))
	require.Equal(t, int64(10), ok(counter.Increment(ctx, 20))(t))
	// A delta of zero is zero here, unlike in a counter map.
	require.Equal(t, int64(10), ok(counter.Increment(ctx, 0))(t))
	require.Equal(t, int64(10), ok(counter.Decrement(ctx, 0))(t))
	require.Equal(t, int64(-10), ok(counter.Increment(ctx, -20))(t))
	require.Equal(t, int64(10), ok(counter.Decrement(ctx, -20))(t))
	require.NoError(t, counter.Close(ctx))

	other := ok(client.Counter(second)(name).Get(ctx))(t)
	require.Equal(t, int64(10), ok(other.Get(ctx))(t), "the value outlives the close of a client")
	require.NoError(t, other.Close(ctx))
}

func TestCounterUpdateComparesAlways(t *testing.T) {
	ctx := begin(t)
	counter := ok(client.Counter(open(t))(freshName()).Get(ctx))(t)

	require.NoError(t, counter.Update(ctx, 0, 5), "an unwritten counter is 0")
	requireConflict(t, counter.Update(ctx, 0, 6))
	requireConflict(t, counter.Update(ctx, 4, 6))
	require.Equal(t, int64(5), ok(counter.Get(ctx))(t), "a refused update changes nothing")
	require.NoError(t, counter.Update(ctx, 5, -7))
	require.Equal(t, int64(-7), ok(counter.Get(ctx))(t))
}

func TestCounterWrapsAround(t *testing.T) {
	ctx := begin(t)
	counter := ok(client.Counter(open(t))(freshName()).Get(ctx))(t)

	require.NoError(t, counter.Set(ctx, math.MaxInt64))
	require.Equal(t, int64(math.MinInt64), ok(counter.Increment(ctx, 1))(t))
	require.Equal(t, int64(math.MaxInt64), ok(counter.Decrement(ctx, 1))(t))
}

func TestCounterLosesNoIncrement(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	const workers, rounds = 4, 50

	failures := make(chan error, workers)
	for range make([]struct{}, workers) {
		counter := ok(client.Counter(open(t))(name).Get(ctx))(t)
		go func() {
			for range make([]struct{}, rounds) {
				if _, err := counter.Increment(ctx, 1); err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		}()
	}
	for range make([]struct{}, workers) {
		require.NoError(t, <-failures)
	}
	counter := ok(client.Counter(open(t))(name).Get(ctx))(t)
	require.Equal(t, int64(workers*rounds), ok(counter.Get(ctx))(t))
}
