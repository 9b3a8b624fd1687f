// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/atomix/atomix/api/errors"
	valuev1 "github.com/atomix/atomix/api/runtime/value/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive"
	"github.com/atomix/go-sdk/pkg/primitive/value"
	"github.com/atomix/go-sdk/pkg/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

type versionedText = primitive.Versioned[string]

// getValue opens a value on a connection of its own.
func getValue(ctx context.Context, t *testing.T, name string, tags []string) value.Value[string] {
	t.Helper()
	return ok(client.Value[string](open(t))(name).Tag(tags...).Codec(types.Scalar[string]()).Get(ctx))(t)
}

// valueHolds waits until a client reads a value.
func valueHolds(ctx context.Context, t *testing.T, v value.Value[string], expected versionedText) {
	t.Helper()
	soon(t, fmt.Sprintf("the value is not %+v", expected), func() bool {
		got, err := v.Get(ctx)
		return err == nil && got == expected
	})
}

// valueIsUnset waits until a client finds no value.
func valueIsUnset(ctx context.Context, t *testing.T, v value.Value[string]) {
	t.Helper()
	soon(t, "the value is still set", func() bool {
		_, err := v.Get(ctx)
		return errors.IsNotFound(err)
	})
}

// eachValueCache runs a scenario without a cache and with one: the cache of a value has no size.
func eachValueCache(t *testing.T, scenario func(t *testing.T, tags []string)) {
	t.Run("uncached", func(t *testing.T) { scenario(t, nil) })
	t.Run("cached", func(t *testing.T) { scenario(t, []string{mirrorTag}) })
}

func TestValueIsSetAndDeleted(t *testing.T) {
	eachValueCache(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getValue(ctx, t, name, tags), getValue(ctx, t, name, tags)
		watching, stopWatching := context.WithCancel(ctx)
		values := record[versionedText](ok(second.Watch(watching))(t))
		values.quiet(t)

		_, err := first.Get(ctx)
		requireNotFound(t, err)
		_, err = first.Update(ctx, "none")
		requireNotFound(t, err)
		requireNotFound(t, first.Delete(ctx))

		one := ok(first.Set(ctx, "one"))(t)
		require.Equal(t, "one", one.Value)
		require.NotZero(t, one.Version)
		require.Equal(t, one, values.next(t))
		valueHolds(ctx, t, first, one)
		valueHolds(ctx, t, second, one)

		// Every write is a change, also one of the same bytes.
		same := ok(second.Set(ctx, "one"))(t)
		require.Greater(t, same.Version, one.Version)
		require.Equal(t, same, values.next(t))
		two := ok(first.Update(ctx, "two"))(t)
		require.Greater(t, two.Version, same.Version)
		require.Equal(t, two, values.next(t))
		valueHolds(ctx, t, second, two)

		require.NoError(t, first.Delete(ctx))
		require.Equal(t, two, values.next(t), "a watch shows a deletion as the deleted value")
		valueIsUnset(ctx, t, first)
		valueIsUnset(ctx, t, second)
		requireNotFound(t, first.Delete(ctx))

		three := ok(second.Set(ctx, "three"))(t)
		require.Greater(t, three.Version, two.Version, "versions grow across a deletion")
		require.Equal(t, three, values.next(t))
		valueHolds(ctx, t, first, three)

		late := record[versionedText](ok(first.Watch(ctx))(t))
		require.Equal(t, three, late.next(t), "a watch starts with the current value")
		values.quiet(t)
		stopWatching()
		require.Empty(t, values.rest(t))
		require.NoError(t, second.Close(ctx))
		four := ok(first.Update(ctx, "four"))(t)
		require.Equal(t, four, late.next(t), "the close of one client leaves the other alone")
		require.NoError(t, first.Close(ctx))
		require.Empty(t, late.rest(t))
	})
}

func TestValueRefusedWritesChangeNothing(t *testing.T) {
	eachValueCache(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getValue(ctx, t, name, tags), getValue(ctx, t, name, tags)
		_, err := first.Update(ctx, "none", value.IfVersion(1))
		requireNotFound(t, err)
		one := ok(first.Set(ctx, "one"))(t)
		two := ok(first.Update(ctx, "two", value.IfVersion(one.Version)))(t)
		events := record[value.Event[string]](ok(second.Events(ctx))(t))

		_, err = second.Update(ctx, "three", value.IfVersion(one.Version))
		requireConflict(t, err)
		requireConflict(t, second.Delete(ctx, value.IfVersion(one.Version)))
		events.quiet(t)
		valueHolds(ctx, t, first, two)
		// The stub has no cache.
		conn := dial(t)
		ok(valuev1.NewValuesClient(conn).Create(ctx, &valuev1.CreateRequest{ID: id(name), Tags: tags}))(t)
		stored := ok(valuev1.NewValueClient(conn).Get(ctx, &valuev1.GetRequest{ID: id(name)}))(t).Value
		require.Equal(t, &valuev1.VersionedValue{Value: []byte("two"), Version: uint64(two.Version)}, stored)

		require.NoError(t, second.Delete(ctx, value.IfVersion(two.Version)))
		valueIsUnset(ctx, t, first)
	})
}

func TestValueReportsEvents(t *testing.T) {
	eachValueCache(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer, reader := getValue(ctx, t, name, tags), getValue(ctx, t, name, tags)
		events := record[value.Event[string]](ok(reader.Events(ctx))(t))

		one := ok(writer.Set(ctx, "one"))(t)
		require.Equal(t, one, as[*value.Created[string]](t, events.next(t)).Value)
		two := ok(writer.Set(ctx, "two"))(t)
		updated := as[*value.Updated[string]](t, events.next(t))
		require.Equal(t, two, updated.Value)
		require.Equal(t, one, updated.PrevValue)
		three := ok(writer.Update(ctx, "three"))(t)
		updated = as[*value.Updated[string]](t, events.next(t))
		require.Equal(t, three, updated.Value)
		require.Equal(t, two, updated.PrevValue)

		require.NoError(t, writer.Delete(ctx))
		deleted := as[*value.Deleted[string]](t, events.next(t))
		require.Equal(t, "three", deleted.Value.Value)
		require.Greater(t, deleted.Value.Version, three.Version,
			"the version of the deletion: the cache of the SDK drops its copy only for a greater one")
		four := ok(writer.Set(ctx, "four"))(t)
		require.Greater(t, four.Version, three.Version)
		require.Equal(t, four, as[*value.Created[string]](t, events.next(t)).Value)
		events.quiet(t)
	})
}

func TestValueExpires(t *testing.T) {
	eachValueCache(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer, reader := getValue(ctx, t, name, tags), getValue(ctx, t, name, tags)
		events := record[value.Event[string]](ok(reader.Events(ctx))(t))
		values := record[versionedText](ok(reader.Watch(ctx))(t))
		// The SDK does not tell applications that a value expired, the wire does.
		conn := dial(t)
		ok(valuev1.NewValuesClient(conn).Create(ctx, &valuev1.CreateRequest{ID: id(name)}))(t)
		raw := record[*valuev1.EventsResponse](received[*valuev1.EventsResponse](
			ok(valuev1.NewValueClient(conn).Events(ctx, &valuev1.EventsRequest{ID: id(name)}))(t).Recv))
		require.Nil(t, raw.next(t).Event.Event, "the acknowledgement")
		const ttl = 600 * time.Millisecond

		start := time.Now()
		one := ok(writer.Set(ctx, "one", value.WithTTL(ttl)))(t)
		require.Equal(t, one, values.next(t))
		require.Equal(t, one, as[*value.Created[string]](t, events.next(t)).Value)
		valueHolds(ctx, t, reader, one)
		deleted := as[*value.Deleted[string]](t, events.next(t))
		require.GreaterOrEqual(t, time.Since(start), ttl-20*time.Millisecond)
		require.Less(t, time.Since(start), ttl+2*time.Second)
		as[*valuev1.Event_Created_](t, raw.next(t).Event.Event)
		require.True(t, as[*valuev1.Event_Deleted_](t, raw.next(t).Event.Event).Deleted.Expired)
		require.Equal(t, "one", deleted.Value.Value)
		require.Equal(t, one, values.next(t))
		valueIsUnset(ctx, t, writer)
		valueIsUnset(ctx, t, reader)

		two := ok(writer.Set(ctx, "two"))(t)
		require.Equal(t, two, as[*value.Created[string]](t, events.next(t)).Value)
		ok(writer.Update(ctx, "three", value.WithTTL(ttl)))(t)
		as[*value.Updated[string]](t, events.next(t))
		as[*value.Deleted[string]](t, events.next(t))
		as[*valuev1.Event_Created_](t, raw.next(t).Event.Event)
		as[*valuev1.Event_Updated_](t, raw.next(t).Event.Event)
		require.True(t, as[*valuev1.Event_Deleted_](t, raw.next(t).Event.Event).Deleted.Expired)
		valueIsUnset(ctx, t, reader)

		// A write without a time to live clears the earlier one.
		ok(writer.Set(ctx, "four", value.WithTTL(ttl)))(t)
		five := ok(writer.Set(ctx, "five"))(t)
		as[*value.Created[string]](t, events.next(t))
		as[*value.Updated[string]](t, events.next(t))
		time.Sleep(ttl + silence)
		events.quiet(t)
		valueHolds(ctx, t, reader, five)
	})
}

// The SDK has no Insert and does not read previous values.
func TestValueOnTheWire(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	conn := dial(t)
	ok(valuev1.NewValuesClient(conn).Create(ctx, &valuev1.CreateRequest{ID: id(name)}))(t)
	stub := valuev1.NewValueClient(conn)

	inserted := ok(stub.Insert(ctx, &valuev1.InsertRequest{ID: id(name), Value: []byte("one")}))(t)
	_, err := stub.Insert(ctx, &valuev1.InsertRequest{ID: id(name), Value: []byte("two")})
	requireCode(t, codes.AlreadyExists, err)
	set := ok(stub.Set(ctx, &valuev1.SetRequest{ID: id(name), Value: []byte("two")}))(t)
	require.Equal(t, &valuev1.VersionedValue{Value: []byte("one"), Version: inserted.Version}, set.PrevValue)
	updated := ok(stub.Update(ctx, &valuev1.UpdateRequest{ID: id(name), Value: []byte("three")}))(t)
	require.Equal(t, valuev1.VersionedValue{Value: []byte("two"), Version: set.Version}, updated.PrevValue)
	deleted := ok(stub.Delete(ctx, &valuev1.DeleteRequest{ID: id(name)}))(t)
	require.Equal(t, &valuev1.VersionedValue{Value: []byte("three"), Version: updated.Version}, deleted.Value)
	set = ok(stub.Set(ctx, &valuev1.SetRequest{ID: id(name), Value: []byte("four")}))(t)
	require.Nil(t, set.PrevValue)

	require.NotNil(t, ok(stub.Delete(ctx, &valuev1.DeleteRequest{ID: id(name)}))(t).Value)
	ttl := 300 * time.Millisecond
	ok(stub.Insert(ctx, &valuev1.InsertRequest{ID: id(name), Value: []byte("short"), TTL: &ttl}))(t)
	soon(t, "the value did not expire", func() bool {
		_, err := stub.Insert(ctx, &valuev1.InsertRequest{ID: id(name), Value: []byte("free")})
		return err == nil
	})
}
