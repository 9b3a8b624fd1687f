// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"testing"

	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/types"
	"github.com/stretchr/testify/require"
)

func TestCloseOfOneClientLeavesTheOthersAlone(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	leaving, staying := getMap(ctx, t, name, nil), getMap(ctx, t, name, nil)
	ok(leaving.Put(ctx, "foo", "one"))(t)
	stayingEvents, leavingEvents := mapEvents(ctx, t, staying), mapEvents(ctx, t, leaving)
	stayingEntries, leavingEntries := watchMap(ctx, t, staying), watchMap(ctx, t, leaving)
	stayingEntries.next(t)
	leavingEntries.next(t)

	require.NoError(t, leaving.Close(ctx))
	require.Empty(t, leavingEvents.rest(t))
	require.Empty(t, leavingEntries.rest(t))
	two := ok(staying.Put(ctx, "foo", "two"))(t)
	stayingEvents.next(t)
	showsEntry(t, stayingEntries, "foo", "two", two.Version)
	require.NoError(t, staying.Close(ctx))
	require.Empty(t, stayingEvents.rest(t))
	require.Empty(t, stayingEntries.rest(t))
	require.Equal(t, two.Version, ok(getMap(ctx, t, name, nil).Get(ctx, "foo"))(t).Version)
}

func TestAPrimitiveIsOpenedAgainAfterItsClose(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	connection := open(t)
	var last uint64
	for range make([]struct{}, 3) {
		l := ok(client.Lock(connection)(name).Get(ctx))(t)
		token := ok(l.Lock(ctx))(t)
		require.Greater(t, uint64(token), last)
		last = uint64(token)
		// The close releases the lock, so the next round gets it.
		require.NoError(t, l.Close(ctx))
	}
}

func TestTheEndOfAConnectionEndsNothingOfOthers(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	dying := open(t)
	m := ok(client.Map[string, string](dying)(name).Codec(types.Scalar[string]()).Get(ctx))(t)
	ok(m.Put(ctx, "foo", "one"))(t)
	staying := getMap(ctx, t, name, nil)
	events := mapEvents(ctx, t, staying)

	require.NoError(t, dying.Close())
	require.Equal(t, "one", ok(staying.Get(ctx, "foo"))(t).Value)
	ok(staying.Put(ctx, "foo", "two"))(t)
	events.next(t)
	events.quiet(t)
}

func TestOneConnectionCarriesManyPrimitives(t *testing.T) {
	ctx := begin(t)
	connection := open(t)
	// Every cached map holds a stream open: more than the 100 that many servers allow.
	for range make([]struct{}, 150) {
		m := ok(client.Map[string, string](connection)(freshName()).Tag(mirrorTag).Codec(types.Scalar[string]()).Get(ctx))(t)
		ok(m.Put(ctx, "foo", "one"))(t)
	}
}
