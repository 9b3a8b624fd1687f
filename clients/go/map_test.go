// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"math"
	"sort"
	"testing"
	"time"

	"github.com/atomix/atomix/api/errors"
	mapv1 "github.com/atomix/atomix/api/runtime/map/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive"
	_map "github.com/atomix/go-sdk/pkg/primitive/map"
	"github.com/atomix/go-sdk/pkg/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

type (
	textMap   = _map.Map[string, string]
	textEntry = _map.Entry[string, string]
	mapEvent  = _map.Event[string, string]
)

// getMap opens a map on a connection of its own.
func getMap(ctx context.Context, t *testing.T, name string, tags []string) textMap {
	t.Helper()
	return ok(client.Map[string, string](open(t))(name).Tag(tags...).Codec(types.Scalar[string]()).Get(ctx))(t)
}

// watchMap records the entries that a watch shows.
func watchMap(ctx context.Context, t *testing.T, m textMap) *tape[*textEntry] {
	t.Helper()
	return record[*textEntry](ok(m.Watch(ctx))(t))
}

// mapEvents records events.
func mapEvents(ctx context.Context, t *testing.T, m textMap, opts ..._map.EventsOption) *tape[mapEvent] {
	t.Helper()
	return record[mapEvent](ok(m.Events(ctx, opts...))(t))
}

// mapHolds waits until a client reads a value at a version: a mirror learns of foreign writes by events.
func mapHolds(ctx context.Context, t *testing.T, m textMap, key, value string, version primitive.Version) {
	t.Helper()
	soon(t, fmt.Sprintf("%s is not %s at version %d", key, value, version), func() bool {
		entry, err := m.Get(ctx, key)
		return err == nil && entry.Key == key && entry.Value == value && entry.Version == version
	})
}

// mapLacks waits until a client does not find a key.
func mapLacks(ctx context.Context, t *testing.T, m textMap, key string) {
	t.Helper()
	soon(t, key+" is still found", func() bool {
		_, err := m.Get(ctx, key)
		return errors.IsNotFound(err)
	})
}

// never is a version that no entry has. The version before that of an entry will not do: it may be 0, "no check".
const never = primitive.Version(math.MaxInt64)

// showsEntry checks the next message of a watch.
func showsEntry(t *testing.T, entries *tape[*textEntry], key, value string, version primitive.Version) {
	t.Helper()
	entry := entries.next(t)
	require.Equal(t, key, entry.Key)
	require.Equal(t, value, entry.Value)
	require.Equal(t, version, entry.Version)
}

func TestMapWritesAndReads(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getMap(ctx, t, name, tags), getMap(ctx, t, name, tags)
		watching, stopWatching := context.WithCancel(ctx)
		entries := watchMap(watching, t, second)

		_, err := first.Get(ctx, "foo")
		requireNotFound(t, err)
		require.Equal(t, 0, ok(first.Len(ctx))(t))
		entries.quiet(t)

		put := ok(first.Put(ctx, "foo", "one"))(t)
		require.Equal(t, "foo", put.Key)
		require.NotZero(t, put.Version)
		showsEntry(t, entries, "foo", "one", put.Version)
		mapHolds(ctx, t, first, "foo", "one", put.Version)
		mapHolds(ctx, t, second, "foo", "one", put.Version)

		// A put of the same bytes is no change: no message, the version stays. The next message shows it.
		same := ok(second.Put(ctx, "foo", "one"))(t)
		require.Equal(t, put.Version, same.Version)

		two := ok(second.Put(ctx, "foo", "two"))(t)
		require.Greater(t, two.Version, put.Version)
		showsEntry(t, entries, "foo", "two", two.Version)
		mapHolds(ctx, t, first, "foo", "two", two.Version)

		// An update of the same bytes is a change.
		updated := ok(first.Update(ctx, "foo", "two"))(t)
		require.Greater(t, updated.Version, two.Version)
		showsEntry(t, entries, "foo", "two", updated.Version)
		mapHolds(ctx, t, second, "foo", "two", updated.Version)

		inserted := ok(second.Insert(ctx, "bar", "three"))(t)
		showsEntry(t, entries, "bar", "three", inserted.Version)
		_, err = first.Insert(ctx, "bar", "four")
		requireAlreadyExists(t, err)
		mapHolds(ctx, t, first, "bar", "three", inserted.Version)
		_, err = first.Update(ctx, "none", "four")
		requireNotFound(t, err)
		require.Equal(t, 2, ok(first.Len(ctx))(t))

		listed := record[*textEntry](ok(first.List(ctx))(t)).rest(t)
		sort.Slice(listed, func(i, j int) bool { return listed[i].Key < listed[j].Key })
		require.Len(t, listed, 2)
		require.Equal(t, "bar", listed[0].Key)
		require.Equal(t, "three", listed[0].Value)
		require.Equal(t, inserted.Version, listed[0].Version)
		require.Equal(t, "foo", listed[1].Key)
		require.Equal(t, updated.Version, listed[1].Version)

		removed := ok(first.Remove(ctx, "foo"))(t)
		require.Equal(t, "two", removed.Value)
		require.Equal(t, updated.Version, removed.Version)
		showsEntry(t, entries, "foo", "two", updated.Version)
		mapLacks(ctx, t, first, "foo")
		mapLacks(ctx, t, second, "foo")
		_, err = first.Remove(ctx, "foo")
		requireNotFound(t, err)

		again := ok(first.Insert(ctx, "foo", "two"))(t)
		require.Greater(t, again.Version, updated.Version, "versions grow across a removal")
		showsEntry(t, entries, "foo", "two", again.Version)
		mapHolds(ctx, t, second, "foo", "two", again.Version)

		require.NoError(t, first.Clear(ctx))
		cleared := []*textEntry{entries.next(t), entries.next(t)}
		sort.Slice(cleared, func(i, j int) bool { return cleared[i].Key < cleared[j].Key })
		require.Equal(t, "bar", cleared[0].Key)
		require.Equal(t, inserted.Version, cleared[0].Version)
		require.Equal(t, "foo", cleared[1].Key)
		require.Equal(t, "two", cleared[1].Value)
		require.Equal(t, again.Version, cleared[1].Version)
		require.Equal(t, 0, ok(second.Len(ctx))(t))
		mapLacks(ctx, t, first, "foo")
		mapLacks(ctx, t, second, "bar")

		entries.quiet(t)
		stopWatching()
		require.Empty(t, entries.rest(t), "a cancelled watch ends")
		require.NoError(t, first.Close(ctx))
		require.NoError(t, second.Close(ctx))
	})
}

func TestMapChecksVersions(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getMap(ctx, t, name, tags), getMap(ctx, t, name, tags)

		_, err := first.Put(ctx, "foo", "none", _map.IfVersion(1))
		requireConflict(t, err)
		mapLacks(ctx, t, first, "foo")

		one := ok(first.Put(ctx, "foo", "one"))(t)
		// The version is checked before the bytes are compared.
		_, err = second.Put(ctx, "foo", "one", _map.IfVersion(never))
		requireConflict(t, err)
		two := ok(second.Put(ctx, "foo", "two", _map.IfVersion(one.Version)))(t)
		require.Greater(t, two.Version, one.Version)

		_, err = first.Update(ctx, "foo", "three", _map.IfVersion(one.Version))
		requireConflict(t, err)
		_, err = first.Update(ctx, "none", "three", _map.IfVersion(one.Version))
		requireNotFound(t, err)
		mapHolds(ctx, t, first, "foo", "two", two.Version)
		three := ok(first.Update(ctx, "foo", "three", _map.IfVersion(two.Version)))(t)
		require.Greater(t, three.Version, two.Version)

		_, err = second.Remove(ctx, "foo", _map.IfVersion(two.Version))
		requireConflict(t, err)
		_, err = second.Remove(ctx, "none", _map.IfVersion(two.Version))
		requireNotFound(t, err)
		mapHolds(ctx, t, second, "foo", "three", three.Version)
		removed := ok(second.Remove(ctx, "foo", _map.IfVersion(three.Version)))(t)
		require.Equal(t, "three", removed.Value)
		require.Equal(t, three.Version, removed.Version)
		mapLacks(ctx, t, first, "foo")
	})
}

func TestMapReportsEvents(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer, reader := getMap(ctx, t, name, tags), getMap(ctx, t, name, tags)
		all := mapEvents(ctx, t, reader)
		some := mapEvents(ctx, t, reader, _map.WithKey("foo"))

		// Other keys reach only the stream without a filter.
		other := ok(writer.Put(ctx, "foobar", "other"))(t)
		event := as[*_map.Inserted[string, string]](t, all.next(t))
		require.Equal(t, "foobar", event.Entry.Key)
		require.Equal(t, other.Version, event.Entry.Version)

		one := ok(writer.Insert(ctx, "foo", "one"))(t)
		two := ok(writer.Update(ctx, "foo", "two"))(t)
		ok(writer.Put(ctx, "foo", "two"))(t)
		ok(writer.Remove(ctx, "foo"))(t)
		for _, events := range []*tape[mapEvent]{all, some} {
			inserted := as[*_map.Inserted[string, string]](t, events.next(t))
			require.Equal(t, "foo", inserted.Entry.Key)
			require.Equal(t, "one", inserted.Entry.Value)
			require.Equal(t, one.Version, inserted.Entry.Version)
			updated := as[*_map.Updated[string, string]](t, events.next(t))
			require.Equal(t, "two", updated.Entry.Value)
			require.Equal(t, two.Version, updated.Entry.Version)
			require.Equal(t, "one", updated.PrevEntry.Value)
			require.Equal(t, one.Version, updated.PrevEntry.Version)
			removed := as[*_map.Removed[string, string]](t, events.next(t))
			require.Equal(t, "foo", removed.Entry.Key)
			require.Equal(t, "two", removed.Entry.Value)
			require.Equal(t, two.Version, removed.Entry.Version, "the version that the entry had")
			require.False(t, removed.Expired)
		}

		require.NoError(t, writer.Clear(ctx))
		cleared := as[*_map.Removed[string, string]](t, all.next(t))
		require.Equal(t, "foobar", cleared.Entry.Key)
		all.quiet(t)
		some.quiet(t)
	})
}

func TestMapExpiresEntries(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer, reader := getMap(ctx, t, name, tags), getMap(ctx, t, name, tags)
		events := mapEvents(ctx, t, reader, _map.WithKey("short"))
		entries := watchMap(ctx, t, reader)
		const ttl = 600 * time.Millisecond

		start := time.Now()
		short := ok(writer.Put(ctx, "short", "one", _map.WithTTL(ttl)))(t)
		showsEntry(t, entries, "short", "one", short.Version)
		mapHolds(ctx, t, reader, "short", "one", short.Version)
		as[*_map.Inserted[string, string]](t, events.next(t))
		removed := as[*_map.Removed[string, string]](t, events.next(t))
		require.GreaterOrEqual(t, time.Since(start), ttl-20*time.Millisecond)
		require.Less(t, time.Since(start), ttl+2*time.Second, "an idle map expires in time")
		require.True(t, removed.Expired)
		require.Equal(t, "one", removed.Entry.Value)
		require.Equal(t, short.Version, removed.Entry.Version)
		showsEntry(t, entries, "short", "one", short.Version)
		mapLacks(ctx, t, writer, "short")
		mapLacks(ctx, t, reader, "short")
		require.Equal(t, 0, ok(writer.Len(ctx))(t))
		ok(writer.Insert(ctx, "short", "two"))(t)
	})
}

func TestMapWriteReplacesTheTimeToLive(t *testing.T) {
	ctx := begin(t)
	m := getMap(ctx, t, freshName(), nil)
	const short, long = 500 * time.Millisecond, time.Hour

	start := time.Now()
	ok(m.Put(ctx, "cleared by put", "one", _map.WithTTL(short)))(t)
	ok(m.Put(ctx, "cleared by put", "two"))(t)
	ok(m.Insert(ctx, "cleared by update", "one", _map.WithTTL(short)))(t)
	ok(m.Update(ctx, "cleared by update", "two"))(t)
	ok(m.Put(ctx, "cleared by the same value", "one", _map.WithTTL(short)))(t)
	ok(m.Put(ctx, "cleared by the same value", "one"))(t)
	ok(m.Put(ctx, "renewed by the same value", "one", _map.WithTTL(short)))(t)
	renewed := ok(m.Put(ctx, "renewed by the same value", "one", _map.WithTTL(long)))(t)
	ok(m.Put(ctx, "set by update", "one"))(t)
	ok(m.Update(ctx, "set by update", "one", _map.WithTTL(short)))(t)
	ok(m.Insert(ctx, "set by insert", "one", _map.WithTTL(short)))(t)
	if time.Since(start) > short/2 {
		t.Log("the machine is slow; a write may have come after the expiry that it replaces")
	}

	mapLacks(ctx, t, m, "set by insert")
	mapLacks(ctx, t, m, "set by update")
	time.Sleep(short)
	for _, key := range []string{
		"cleared by put", "cleared by update", "cleared by the same value", "renewed by the same value",
	} {
		_, err := m.Get(ctx, key)
		require.NoError(t, err, key)
	}
	require.Equal(t, renewed.Version, ok(m.Get(ctx, "renewed by the same value"))(t).Version)
}

func TestMapCacheHoldsMoreKeysThanItsSize(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer := getMap(ctx, t, name, tags)
		versions := map[string]primitive.Version{}
		for i := 0; i < 10; i++ {
			key := fmt.Sprintf("key %d", i)
			versions[key] = ok(writer.Put(ctx, key, "one"))(t).Version
		}
		// A client that comes later finds what is there.
		reader := getMap(ctx, t, name, tags)
		for round := 0; round < 2; round++ {
			for key, version := range versions {
				mapHolds(ctx, t, reader, key, "one", version)
				mapHolds(ctx, t, writer, key, "one", version)
			}
		}
		for key := range versions {
			versions[key] = ok(reader.Put(ctx, key, "two"))(t).Version
		}
		for key, version := range versions {
			mapHolds(ctx, t, writer, key, "two", version)
		}
		for key := range versions {
			ok(reader.Remove(ctx, key))(t)
			mapLacks(ctx, t, writer, key)
		}
	})
}

func TestMapTransactionIsAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getMap(ctx, t, name, tags), getMap(ctx, t, name, tags)
		entries := watchMap(ctx, t, second)

		_, err := first.Transaction(ctx).Put("foo", "one").Insert("bar", "two").Update("baz", "three").Commit()
		requireNotFound(t, err)
		for _, key := range []string{"foo", "bar", "baz"} {
			mapLacks(ctx, t, first, key)
			mapLacks(ctx, t, second, key)
		}
		require.Equal(t, 0, ok(first.Len(ctx))(t))
		entries.quiet(t)

		written := ok(first.Transaction(ctx).Put("foo", "one").Insert("bar", "two").Insert("baz", "three").Commit())(t)
		require.Len(t, written, 3)
		for i, expected := range []struct{ key, value string }{{"foo", "one"}, {"bar", "two"}, {"baz", "three"}} {
			require.Equal(t, expected.key, written[i].Key)
			require.Equal(t, expected.value, written[i].Value)
			require.NotZero(t, written[i].Version)
			require.Equal(t, written[0].Version, written[i].Version, "one transaction, one version")
			showsEntry(t, entries, expected.key, expected.value, written[i].Version)
			mapHolds(ctx, t, first, expected.key, expected.value, written[i].Version)
			mapHolds(ctx, t, second, expected.key, expected.value, written[i].Version)
		}
		require.Equal(t, 3, ok(second.Len(ctx))(t))

		version := written[0].Version
		_, err = second.Transaction(ctx).Put("new", "x").Insert("bar", "x").Commit()
		requireAlreadyExists(t, err)
		_, err = second.Transaction(ctx).Put("new", "x").Update("foo", "x", _map.IfVersion(never)).Commit()
		requireConflict(t, err)
		_, err = second.Transaction(ctx).Put("new", "x").Put("foo", "x", _map.IfVersion(never)).Commit()
		requireConflict(t, err)
		_, err = second.Transaction(ctx).Put("new", "x").Remove("foo", _map.IfVersion(never)).Commit()
		requireConflict(t, err)
		_, err = second.Transaction(ctx).Put("new", "x").Remove("none").Commit()
		requireNotFound(t, err)
		_, err = second.Transaction(ctx).Put("new", "x").Put("new", "y").Commit()
		requireConflict(t, err)
		// Validation sees the state before the transaction.
		_, err = second.Transaction(ctx).Insert("new", "x").Update("none", "y").Insert("foo", "z").Commit()
		requireNotFound(t, err)
		mapLacks(ctx, t, second, "new")
		entries.quiet(t)

		changed := ok(second.Transaction(ctx).
			Update("foo", "changed", _map.IfVersion(version)).
			Remove("bar", _map.IfVersion(version)).
			Put("baz", "three").
			Commit())(t)
		require.Len(t, changed, 3)
		require.Greater(t, changed[0].Version, version)
		require.Equal(t, "two", changed[1].Value)
		require.Equal(t, version, changed[1].Version, "a removal returns what was there")
		require.Equal(t, version, changed[2].Version, "a put of the same bytes is no change")
		showsEntry(t, entries, "foo", "changed", changed[0].Version)
		showsEntry(t, entries, "bar", "two", version)
		entries.quiet(t)
		mapHolds(ctx, t, first, "foo", "changed", changed[0].Version)
		mapLacks(ctx, t, first, "bar")
	})
}

func TestMapTransactionReportsEventsInItsOrder(t *testing.T) {
	ctx := begin(t)
	m := getMap(ctx, t, freshName(), nil)
	ok(m.Put(ctx, "b", "old"))(t)
	ok(m.Put(ctx, "a", "old"))(t)
	events := mapEvents(ctx, t, m)

	ok(m.Transaction(ctx).Remove("b").Update("a", "new").Insert("c", "new").Commit())(t)
	require.Equal(t, "b", as[*_map.Removed[string, string]](t, events.next(t)).Entry.Key)
	require.Equal(t, "a", as[*_map.Updated[string, string]](t, events.next(t)).Entry.Key)
	require.Equal(t, "c", as[*_map.Inserted[string, string]](t, events.next(t)).Entry.Key)
	events.quiet(t)
}

func TestMapTransactionSetsTheTimeToLive(t *testing.T) {
	ctx := begin(t)
	m := getMap(ctx, t, freshName(), nil)
	ok(m.Put(ctx, "updated", "old"))(t)
	const ttl = 300 * time.Millisecond
	ok(m.Transaction(ctx).
		Put("put", "x", _map.WithTTL(ttl)).
		Insert("inserted", "x", _map.WithTTL(ttl)).
		Update("updated", "x", _map.WithTTL(ttl)).
		Put("kept", "x").
		Commit())(t)
	for _, key := range []string{"put", "inserted", "updated"} {
		mapLacks(ctx, t, m, key)
	}
	require.Equal(t, 1, ok(m.Len(ctx))(t))
}

// A transaction that is built call by call keeps the SDK's wrapper of the cache, a chained one loses it.
func TestMapTransactionBuiltCallByCall(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		m := getMap(ctx, t, freshName(), tags)
		none := ok(m.Transaction(ctx).Commit())(t)
		require.Empty(t, none)

		transaction := m.Transaction(ctx)
		transaction.Put("foo", "one")
		transaction.Insert("bar", "two")
		written := ok(transaction.Commit())(t)
		require.Len(t, written, 2)
		mapHolds(ctx, t, m, "foo", "one", written[0].Version)
		mapHolds(ctx, t, m, "bar", "two", written[1].Version)
	})
}

func TestMapCommitOnTheWire(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	conn := dial(t)
	ok(mapv1.NewMapsClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name)}))(t)
	stub := mapv1.NewMapClient(conn)

	empty := ok(stub.Commit(ctx, &mapv1.CommitRequest{ID: id(name)}))(t)
	require.Empty(t, empty.Results)
	_, err := stub.Commit(ctx, &mapv1.CommitRequest{ID: id(name), Operations: []mapv1.CommitRequest_Operation{{}}})
	requireCode(t, codes.InvalidArgument, err)
}

func TestMapPutAnswersThePreviousValue(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	conn := dial(t)
	ok(mapv1.NewMapsClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name)}))(t)
	stub := mapv1.NewMapClient(conn)

	one := ok(stub.Put(ctx, &mapv1.PutRequest{ID: id(name), Key: "foo", Value: []byte("one")}))(t)
	require.Nil(t, one.PrevValue)
	two := ok(stub.Put(ctx, &mapv1.PutRequest{ID: id(name), Key: "foo", Value: []byte("two")}))(t)
	require.Equal(t, &mapv1.VersionedValue{Value: []byte("one"), Version: one.Version}, two.PrevValue)
	same := ok(stub.Put(ctx, &mapv1.PutRequest{ID: id(name), Key: "foo", Value: []byte("two")}))(t)
	require.Equal(t, two.Version, same.Version)
	require.Equal(t, &mapv1.VersionedValue{Value: []byte("two"), Version: two.Version}, same.PrevValue)
	updated := ok(stub.Update(ctx, &mapv1.UpdateRequest{ID: id(name), Key: "foo", Value: []byte("three")}))(t)
	require.Equal(t, mapv1.VersionedValue{Value: []byte("two"), Version: two.Version}, updated.PrevValue)
}

// account is a value that a codec of the application encodes.
type account struct {
	Owner   string
	Balance int
}

func TestMapCarriesTypedKeysAndValues(t *testing.T) {
	ctx := begin(t)
	m := ok(client.Map[int, account](open(t))(freshName()).Codec(types.JSON[account]()).Get(ctx))(t)
	events := record[_map.Event[int, account]](ok(m.Events(ctx, _map.WithKey(7)))(t))

	ok(m.Put(ctx, 7, account{"seven", 1}))(t)
	ok(m.Put(ctx, 8, account{"eight", 1}))(t)
	ok(m.Put(ctx, 7, account{"seven", 2}))(t)
	entry := ok(m.Get(ctx, 7))(t)
	require.Equal(t, 7, entry.Key)
	require.Equal(t, account{"seven", 2}, entry.Value)
	require.Equal(t, account{"seven", 1}, as[*_map.Inserted[int, account]](t, events.next(t)).Entry.Value)
	updated := as[*_map.Updated[int, account]](t, events.next(t))
	require.Equal(t, account{"seven", 2}, updated.Entry.Value)
	require.Equal(t, account{"seven", 1}, updated.PrevEntry.Value)
	events.quiet(t)
}

func TestMapTakesEmptyAndLargeValues(t *testing.T) {
	ctx := begin(t)
	m := getMap(ctx, t, freshName(), nil)
	empty := ok(m.Put(ctx, "", ""))(t)
	mapHolds(ctx, t, m, "", "", empty.Version)
	large := string(make([]byte, 512<<10))
	ok(m.Put(ctx, "large", large))(t)
	require.Equal(t, large, ok(m.Get(ctx, "large"))(t).Value)
	require.Equal(t, 2, ok(m.Len(ctx))(t))
}
