// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/atomix/atomix/api/errors"
	indexedmapv1 "github.com/atomix/atomix/api/runtime/indexedmap/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive"
	"github.com/atomix/go-sdk/pkg/primitive/indexedmap"
	"github.com/atomix/go-sdk/pkg/types"
	"github.com/stretchr/testify/require"
)

type (
	textIndexedMap = indexedmap.IndexedMap[string, string]
	indexedEntry   = indexedmap.Entry[string, string]
	indexedEvent   = indexedmap.Event[string, string]
)

// getIndexedMap opens an indexed map on a connection of its own.
func getIndexedMap(ctx context.Context, t *testing.T, name string, tags []string) textIndexedMap {
	t.Helper()
	return ok(client.IndexedMap[string, string](open(t))(name).Tag(tags...).Codec(types.Scalar[string]()).Get(ctx))(t)
}

// indexedEvents records events.
func indexedEvents(ctx context.Context, t *testing.T, m textIndexedMap, opts ...indexedmap.EventsOption) *tape[indexedEvent] {
	t.Helper()
	return record[indexedEvent](ok(m.Events(ctx, opts...))(t))
}

// indexedHolds waits until a client reads an entry, by its key and by its index.
func indexedHolds(ctx context.Context, t *testing.T, m textIndexedMap, expected *indexedEntry) {
	t.Helper()
	soon(t, fmt.Sprintf("no entry like %+v", *expected), func() bool {
		byKey, err := m.Get(ctx, expected.Key)
		if err != nil || *byKey != *expected {
			return false
		}
		byIndex, err := m.GetIndex(ctx, expected.Index)
		return err == nil && *byIndex == *expected
	})
}

// indexedLacks waits until a client finds an entry neither by its key nor by its index.
func indexedLacks(ctx context.Context, t *testing.T, m textIndexedMap, entry *indexedEntry) {
	t.Helper()
	soon(t, fmt.Sprintf("still an entry like %+v", *entry), func() bool {
		_, byKey := m.Get(ctx, entry.Key)
		_, byIndex := m.GetIndex(ctx, entry.Index)
		return errors.IsNotFound(byKey) && errors.IsNotFound(byIndex)
	})
}

// indexed builds an expected entry.
func indexed(index indexedmap.Index, key, value string, version primitive.Version) *indexedEntry {
	return &indexedEntry{Versioned: primitive.Versioned[string]{Version: version, Value: value}, Index: index, Key: key}
}

func TestIndexedMapKeepsTheOrderOfAppends(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getIndexedMap(ctx, t, name, tags), getIndexedMap(ctx, t, name, tags)
		conn := dial(t)
		ok(indexedmapv1.NewIndexedMapsClient(conn).Create(ctx, &indexedmapv1.CreateRequest{ID: id(name), Tags: tags}))(t)

		_, err := first.Get(ctx, "foo")
		requireNotFound(t, err)
		_, err = first.GetIndex(ctx, 0)
		requireNotFound(t, err)
		_, err = first.FirstIndex(ctx)
		requireNotFound(t, err)
		_, err = first.LastEntry(ctx)
		requireNotFound(t, err)
		require.Equal(t, 0, ok(first.Len(ctx))(t))

		one := ok(first.Append(ctx, "foo", "bar"))(t)
		require.NotZero(t, one.Version)
		require.Equal(t, indexed(1, "foo", "bar", one.Version), one)
		indexedHolds(ctx, t, first, one)
		indexedHolds(ctx, t, second, one)
		_, err = first.GetIndex(ctx, 0)
		requireNotFound(t, err)
		_, err = second.Append(ctx, "foo", "again")
		requireAlreadyExists(t, err)
		require.Equal(t, 1, ok(second.Len(ctx))(t))

		require.Equal(t, one, ok(second.Remove(ctx, "foo"))(t))
		require.Equal(t, 0, ok(first.Len(ctx))(t))
		indexedLacks(ctx, t, first, one)
		indexedLacks(ctx, t, second, one)
		_, err = first.Remove(ctx, "foo")
		requireNotFound(t, err)
		_, err = first.RemoveIndex(ctx, 1)
		requireNotFound(t, err)
		_, err = first.Update(ctx, "foo", "none")
		requireNotFound(t, err)

		two := ok(second.Append(ctx, "foo", "bar"))(t)
		require.Equal(t, indexed(2, "foo", "bar", two.Version), two)
		require.Greater(t, two.Version, one.Version)
		updated := ok(first.Update(ctx, "foo", "baz", indexedmap.IfVersion(two.Version)))(t)
		require.Equal(t, indexed(2, "foo", "baz", updated.Version), updated)
		require.Greater(t, updated.Version, two.Version)
		_, err = first.Update(ctx, "foo", "bar", indexedmap.IfVersion(two.Version))
		requireConflict(t, err)
		_, err = first.Remove(ctx, "foo", indexedmap.IfVersion(two.Version))
		requireConflict(t, err)
		_, err = first.RemoveIndex(ctx, 2, indexedmap.IfVersion(math.MaxInt64))
		requireConflict(t, err)
		indexedHolds(ctx, t, second, updated)
		// An update to the same bytes is no change.
		require.Equal(t, updated, ok(second.Update(ctx, "foo", "baz"))(t))
		require.Equal(t, updated, ok(second.Remove(ctx, "foo", indexedmap.IfVersion(updated.Version)))(t))
		indexedLacks(ctx, t, first, updated)

		three := ok(first.Append(ctx, "foo", "bar"))(t)
		four := ok(second.Append(ctx, "bar", "baz"))(t)
		require.Equal(t, indexedmap.Index(3), three.Index)
		require.Equal(t, indexedmap.Index(4), four.Index)
		three = ok(second.Update(ctx, "foo", "foo"))(t)
		require.Equal(t, indexedmap.Index(3), three.Index, "an update keeps the place")
		indexedHolds(ctx, t, first, three)
		indexedHolds(ctx, t, first, four)

		require.Equal(t, indexedmap.Index(3), ok(first.FirstIndex(ctx))(t))
		require.Equal(t, indexedmap.Index(4), ok(first.LastIndex(ctx))(t))
		require.Equal(t, indexedmap.Index(3), ok(first.PrevIndex(ctx, 4))(t))
		require.Equal(t, indexedmap.Index(3), ok(first.NextIndex(ctx, 2))(t))
		require.Equal(t, indexedmap.Index(3), ok(first.NextIndex(ctx, 0))(t))
		require.Equal(t, indexedmap.Index(4), ok(first.NextIndex(ctx, 3))(t))
		require.Equal(t, indexedmap.Index(4), ok(first.PrevIndex(ctx, 1000))(t))
		require.Equal(t, three, ok(second.FirstEntry(ctx))(t))
		require.Equal(t, four, ok(second.LastEntry(ctx))(t))
		require.Equal(t, three, ok(second.PrevEntry(ctx, 4))(t))
		require.Equal(t, three, ok(second.NextEntry(ctx, 2))(t))
		require.Equal(t, four, ok(second.NextEntry(ctx, 3))(t))
		_, err = first.PrevIndex(ctx, 3)
		requireNotFound(t, err)
		_, err = first.PrevEntry(ctx, 3)
		requireNotFound(t, err)
		_, err = first.NextIndex(ctx, 4)
		requireNotFound(t, err)
		_, err = first.NextEntry(ctx, 4)
		requireNotFound(t, err)
		require.Equal(t, []*indexedEntry{three, four}, record[*indexedEntry](ok(first.List(ctx))(t)).rest(t))

		require.Equal(t, four, ok(first.RemoveIndex(ctx, 4))(t))
		indexedLacks(ctx, t, second, four)
		// The stub clears: the cache of the SDK empties itself without a lock, beside its own events.
		ok(indexedmapv1.NewIndexedMapClient(conn).Clear(ctx, &indexedmapv1.ClearRequest{ID: id(name)}))(t)
		require.Equal(t, 0, ok(first.Len(ctx))(t))
		indexedLacks(ctx, t, first, three)
		indexedLacks(ctx, t, second, three)
		five := ok(first.Append(ctx, "foo", "bar"))(t)
		require.Equal(t, indexedmap.Index(5), five.Index, "an index is never used again")

		require.NoError(t, first.Close(ctx))
		indexedHolds(ctx, t, second, five)
		require.NoError(t, second.Close(ctx))
	})
}

func TestIndexedMapReportsEvents(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer, reader := getIndexedMap(ctx, t, name, tags), getIndexedMap(ctx, t, name, tags)
		all := indexedEvents(ctx, t, reader)
		some := indexedEvents(ctx, t, reader, indexedmap.WithKey("foo"))

		other := ok(writer.Append(ctx, "bar", "other"))(t)
		require.Equal(t, other, as[*indexedmap.Inserted[string, string]](t, all.next(t)).Entry)
		one := ok(writer.Append(ctx, "foo", "one"))(t)
		two := ok(writer.Update(ctx, "foo", "two"))(t)
		ok(writer.Update(ctx, "foo", "two"))(t)
		ok(writer.Remove(ctx, "foo"))(t)
		for _, events := range []*tape[indexedEvent]{all, some} {
			require.Equal(t, one, as[*indexedmap.Inserted[string, string]](t, events.next(t)).Entry)
			updated := as[*indexedmap.Updated[string, string]](t, events.next(t))
			require.Equal(t, two, updated.Entry)
			require.Equal(t, one, updated.PrevEntry)
			removed := as[*indexedmap.Removed[string, string]](t, events.next(t))
			require.Equal(t, two, removed.Entry)
			require.False(t, removed.Expired)
		}
		ok(writer.RemoveIndex(ctx, other.Index))(t)
		require.Equal(t, other, as[*indexedmap.Removed[string, string]](t, all.next(t)).Entry)
		all.quiet(t)
		some.quiet(t)
	})
}

func TestIndexedMapExpiresEntries(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer, reader := getIndexedMap(ctx, t, name, tags), getIndexedMap(ctx, t, name, tags)
		events := indexedEvents(ctx, t, reader)
		const ttl = 600 * time.Millisecond

		start := time.Now()
		short := ok(writer.Append(ctx, "short", "one", indexedmap.WithTTL(ttl)))(t)
		kept := ok(writer.Append(ctx, "kept", "one"))(t)
		updated := ok(writer.Append(ctx, "updated", "one"))(t)
		updated = ok(writer.Update(ctx, "updated", "two", indexedmap.WithTTL(ttl)))(t)
		cleared := ok(writer.Append(ctx, "cleared", "one", indexedmap.WithTTL(ttl)))(t)
		cleared = ok(writer.Update(ctx, "cleared", "two"))(t)
		for i := 0; i < 6; i++ {
			events.next(t)
		}
		for _, expected := range []*indexedEntry{short, updated} {
			removed := as[*indexedmap.Removed[string, string]](t, events.next(t))
			require.True(t, removed.Expired)
			require.Equal(t, expected, removed.Entry)
		}
		require.GreaterOrEqual(t, time.Since(start), ttl-20*time.Millisecond)
		require.Less(t, time.Since(start), ttl+2*time.Second)
		indexedLacks(ctx, t, writer, short)
		indexedLacks(ctx, t, reader, updated)
		require.Equal(t, kept, ok(writer.FirstEntry(ctx))(t))
		require.Equal(t, 2, ok(writer.Len(ctx))(t))
		indexedHolds(ctx, t, reader, cleared)
	})
}

func TestIndexedMapRemovalEndsTheTimeToLive(t *testing.T) {
	ctx := begin(t)
	m := getIndexedMap(ctx, t, freshName(), nil)
	const ttl = 300 * time.Millisecond
	before := ok(m.Append(ctx, "before", "x"))(t)
	short := ok(m.Append(ctx, "short", "one", indexedmap.WithTTL(ttl)))(t)
	after := ok(m.Append(ctx, "after", "x"))(t)
	ok(m.RemoveIndex(ctx, short.Index))(t)
	again := ok(m.Append(ctx, "short", "two"))(t)
	events := indexedEvents(ctx, t, m)

	time.Sleep(ttl + silence)
	events.quiet(t)
	require.Equal(t, []*indexedEntry{before, after, again}, record[*indexedEntry](ok(m.List(ctx))(t)).rest(t))
	require.Equal(t, after.Index, ok(m.NextIndex(ctx, before.Index))(t))
}

func TestIndexedMapWatchStaysOpen(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	writer, reader := getIndexedMap(ctx, t, name, nil), getIndexedMap(ctx, t, name, nil)
	one := ok(writer.Append(ctx, "one", "x"))(t)
	two := ok(writer.Append(ctx, "two", "x"))(t)
	watching, stopWatching := context.WithCancel(ctx)
	entries := record[*indexedEntry](ok(reader.Watch(watching))(t))
	require.Equal(t, one, entries.next(t))
	require.Equal(t, two, entries.next(t))

	three := ok(writer.Append(ctx, "three", "x"))(t)
	require.Equal(t, three, entries.next(t))
	one = ok(writer.Update(ctx, "one", "y"))(t)
	require.Equal(t, one, entries.next(t))
	ok(writer.Remove(ctx, "two"))(t)
	require.Equal(t, two, entries.next(t), "a removal shows the last value")
	require.NoError(t, writer.Clear(ctx))
	require.Equal(t, one, entries.next(t))
	require.Equal(t, three, entries.next(t))
	entries.quiet(t)
	stopWatching()
	require.Empty(t, entries.rest(t))
}

func TestIndexedMapCacheHoldsMoreKeysThanItsSize(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer := getIndexedMap(ctx, t, name, tags)
		var entries []*indexedEntry
		for i := 0; i < 10; i++ {
			entries = append(entries, ok(writer.Append(ctx, fmt.Sprint("key ", i), "one"))(t))
		}
		reader := getIndexedMap(ctx, t, name, tags)
		for _, entry := range entries {
			indexedHolds(ctx, t, reader, entry)
			indexedHolds(ctx, t, writer, entry)
		}
		for i, entry := range entries {
			entries[i] = ok(reader.Update(ctx, entry.Key, "two"))(t)
		}
		for _, entry := range entries {
			indexedHolds(ctx, t, writer, entry)
		}
	})
}
