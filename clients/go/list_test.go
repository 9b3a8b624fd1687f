// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"math"
	"testing"

	listv1 "github.com/atomix/atomix/api/runtime/list/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive/list"
	"github.com/atomix/go-sdk/pkg/types"
	"github.com/stretchr/testify/require"
)

// getList opens a list on a connection of its own.
func getList(ctx context.Context, t *testing.T, name string) list.List[string] {
	t.Helper()
	return ok(client.List[string](open(t))(name).Codec(types.Scalar[string]()).Get(ctx))(t)
}

// items returns the content of a list.
func items(ctx context.Context, t *testing.T, l list.List[string]) []string {
	t.Helper()
	return record[string](ok(l.Items(ctx))(t)).rest(t)
}

func TestListHoldsASequence(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	first, second := getList(ctx, t, name), getList(ctx, t, name)

	require.Equal(t, 0, ok(first.Len(ctx))(t))
	_, err := first.Get(ctx, 0)
	requireInvalid(t, err)
	require.Empty(t, items(ctx, t, first))

	require.NoError(t, first.Append(ctx, "foo"))
	require.Equal(t, 1, ok(second.Len(ctx))(t))
	require.NoError(t, second.Append(ctx, "bar"))
	require.NoError(t, first.Insert(ctx, 1, "baz"))
	require.Equal(t, 3, ok(second.Len(ctx))(t))
	require.Equal(t, []string{"foo", "baz", "bar"}, items(ctx, t, second))

	events := record[list.Event[string]](ok(second.Events(ctx))(t))
	// The SDK hides appends on Events: the next message is the insert.
	require.NoError(t, first.Append(ctx, "w"))
	require.NoError(t, first.Insert(ctx, 2, "x"))
	require.Equal(t, "x", as[*list.Inserted[string]](t, events.next(t)).Value)
	require.Equal(t, "baz", ok(first.Remove(ctx, 1))(t))
	require.Equal(t, "baz", as[*list.Removed[string]](t, events.next(t)).Value)
	require.NoError(t, first.Set(ctx, 1, "y"))
	updated := as[*list.Updated[string]](t, events.next(t))
	require.Equal(t, "y", updated.Value)
	require.Equal(t, "x", updated.PrevValue)
	require.Equal(t, []string{"foo", "y", "bar", "w"}, items(ctx, t, first))
	for i, expected := range []string{"foo", "y", "bar", "w"} {
		require.Equal(t, expected, ok(second.Get(ctx, i))(t))
	}

	require.NoError(t, first.Close(ctx))
	require.Equal(t, 4, ok(second.Len(ctx))(t))
	require.NoError(t, second.Clear(ctx))
	for i := 0; i < 4; i++ {
		as[*list.Removed[string]](t, events.next(t))
	}
	events.quiet(t)
	require.Equal(t, 0, ok(second.Len(ctx))(t))
	require.NoError(t, second.Close(ctx))
	require.Empty(t, events.rest(t))
	require.Equal(t, 0, ok(getList(ctx, t, name).Len(ctx))(t))
}

func TestListRefusesAnIndexOutOfRange(t *testing.T) {
	ctx := begin(t)
	l := getList(ctx, t, freshName())
	require.NoError(t, l.Append(ctx, "only"))

	// The SDK sends -1 as the greatest index.
	for _, index := range []int{1, 2, -1, math.MaxInt32} {
		_, err := l.Get(ctx, index)
		requireInvalid(t, err)
		requireInvalid(t, l.Set(ctx, index, "x"))
		_, err = l.Remove(ctx, index)
		requireInvalid(t, err)
	}
	for _, index := range []int{2, -1, math.MaxInt32} {
		requireInvalid(t, l.Insert(ctx, index, "x"))
	}
	require.Equal(t, []string{"only"}, items(ctx, t, l))
	require.NoError(t, l.Insert(ctx, 1, "end"), "the length is the index of the end")
	require.NoError(t, l.Insert(ctx, 0, "start"))
	require.Equal(t, []string{"start", "only", "end"}, items(ctx, t, l))
}

func TestListWatchShowsEveryChange(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	writer, reader := getList(ctx, t, name), getList(ctx, t, name)
	require.NoError(t, writer.Append(ctx, "a"))
	require.NoError(t, writer.Append(ctx, "b"))
	watching, stopWatching := context.WithCancel(ctx)
	changes := record[string](ok(reader.Watch(watching))(t))
	require.Equal(t, "a", changes.next(t))
	require.Equal(t, "b", changes.next(t))

	require.NoError(t, writer.Append(ctx, "c"))
	require.Equal(t, "c", changes.next(t))
	require.NoError(t, writer.Insert(ctx, 0, "d"))
	require.Equal(t, "d", changes.next(t))
	require.NoError(t, writer.Set(ctx, 0, "e"))
	require.Equal(t, "e", changes.next(t))
	require.Equal(t, "b", ok(writer.Remove(ctx, 2))(t))
	require.Equal(t, "b", changes.next(t), "a removal shows what was removed")
	require.NoError(t, writer.Clear(ctx))
	require.ElementsMatch(t, []string{"e", "a", "c"}, []string{changes.next(t), changes.next(t), changes.next(t)})
	changes.quiet(t)
	stopWatching()
	require.Empty(t, changes.rest(t))
}

func TestListGrowsLong(t *testing.T) {
	ctx := begin(t)
	l := getList(ctx, t, freshName())
	var expected []string
	for i := 0; i < 300; i++ {
		item := string(rune('a' + i%26))
		if i%3 == 2 {
			at := i / 2
			require.NoError(t, l.Insert(ctx, at, item))
			expected = append(expected[:at], append([]string{item}, expected[at:]...)...)
			continue
		}
		require.NoError(t, l.Append(ctx, item))
		expected = append(expected, item)
	}
	require.Equal(t, expected, items(ctx, t, l))
	for i := 0; i < 100; i++ {
		require.Equal(t, expected[i], ok(l.Remove(ctx, i))(t))
		expected = append(expected[:i], expected[i+1:]...)
	}
	require.Equal(t, expected, items(ctx, t, l))
	require.Equal(t, len(expected), ok(l.Len(ctx))(t))
}

func TestListEventsOnTheWire(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	conn := dial(t)
	ok(listv1.NewListsClient(conn).Create(ctx, &listv1.CreateRequest{ID: id(name)}))(t)
	stub := listv1.NewListClient(conn)
	text := func(s string) listv1.Value { return listv1.Value{Value: []byte(s)} }
	ok(stub.Append(ctx, &listv1.AppendRequest{ID: id(name), Value: text("a")}))(t)

	live := record[*listv1.EventsResponse](received[*listv1.EventsResponse](
		ok(stub.Events(ctx, &listv1.EventsRequest{ID: id(name)}))(t).Recv))
	replayed := record[*listv1.EventsResponse](received[*listv1.EventsResponse](
		ok(stub.Events(ctx, &listv1.EventsRequest{ID: id(name), Replay: true}))(t).Recv))
	require.Equal(t, listv1.Event{}, live.next(t).Event, "the acknowledgement")
	require.Equal(t, listv1.Event{}, replayed.next(t).Event, "the acknowledgement")
	content := replayed.next(t).Event
	require.Equal(t, uint32(0), content.Index)
	require.Equal(t, text("a"), as[*listv1.Event_Appended_](t, content.Event).Appended.Value)

	ok(stub.Append(ctx, &listv1.AppendRequest{ID: id(name), Value: text("b")}))(t)
	inserted := ok(stub.Insert(ctx, &listv1.InsertRequest{ID: id(name), Index: 1, Value: text("c")}))(t)
	require.Equal(t, listv1.Item{Index: 1, Value: text("c")}, inserted.Item)
	set := ok(stub.Set(ctx, &listv1.SetRequest{ID: id(name), Index: 0, Value: text("a")}))(t)
	require.Equal(t, listv1.Item{Index: 0, Value: text("a")}, set.Item)
	removed := ok(stub.Remove(ctx, &listv1.RemoveRequest{ID: id(name), Index: 2}))(t)
	require.Equal(t, listv1.Item{Index: 2, Value: text("b")}, removed.Item)
	for _, events := range []*tape[*listv1.EventsResponse]{live, replayed} {
		event := events.next(t).Event
		require.Equal(t, uint32(1), event.Index, "an append has the length before it")
		require.Equal(t, text("b"), as[*listv1.Event_Appended_](t, event.Event).Appended.Value)
		event = events.next(t).Event
		require.Equal(t, uint32(1), event.Index)
		require.Equal(t, text("c"), as[*listv1.Event_Inserted_](t, event.Event).Inserted.Value)
		event = events.next(t).Event
		require.Equal(t, uint32(0), event.Index)
		require.Equal(t, listv1.Event_Updated{Value: text("a"), PrevValue: text("a")},
			*as[*listv1.Event_Updated_](t, event.Event).Updated, "a set to the same bytes is a change")
		event = events.next(t).Event
		require.Equal(t, uint32(2), event.Index)
		require.Equal(t, text("b"), as[*listv1.Event_Removed_](t, event.Event).Removed.Value)
		events.quiet(t)
	}
}
