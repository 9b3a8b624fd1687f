// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"testing"
	"time"

	setv1 "github.com/atomix/atomix/api/runtime/set/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive/set"
	"github.com/atomix/go-sdk/pkg/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

// getSet opens a set on a connection of its own.
func getSet(ctx context.Context, t *testing.T, name string, tags []string) set.Set[string] {
	t.Helper()
	return ok(client.Set[string](open(t))(name).Tag(tags...).Codec(types.Scalar[string]()).Get(ctx))(t)
}

// setContains waits until a client answers as expected.
func setContains(ctx context.Context, t *testing.T, s set.Set[string], element string, expected bool) {
	t.Helper()
	soon(t, fmt.Sprintf("contains %s is not %t", element, expected), func() bool {
		contained, err := s.Contains(ctx, element)
		return err == nil && contained == expected
	})
}

func TestSetAddsAndRemoves(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		first, second := getSet(ctx, t, name, tags), getSet(ctx, t, name, tags)
		watching, stopWatching := context.WithCancel(ctx)
		elements := record[string](ok(second.Watch(watching))(t))
		events := record[set.Event[string]](ok(second.Events(ctx))(t))

		require.False(t, ok(first.Contains(ctx, "foo"))(t))
		require.Equal(t, 0, ok(first.Len(ctx))(t))
		require.False(t, ok(first.Remove(ctx, "foo"))(t), "absent")

		require.True(t, ok(first.Add(ctx, "foo"))(t))
		require.Equal(t, "foo", elements.next(t))
		require.Equal(t, "foo", as[*set.Added[string]](t, events.next(t)).Element)
		require.False(t, ok(first.Add(ctx, "foo"))(t), "present")
		require.False(t, ok(second.Add(ctx, "foo"))(t), "present")
		setContains(ctx, t, first, "foo", true)
		setContains(ctx, t, second, "foo", true)

		require.True(t, ok(second.Add(ctx, "bar"))(t))
		require.Equal(t, "bar", elements.next(t))
		require.Equal(t, "bar", as[*set.Added[string]](t, events.next(t)).Element)
		require.Equal(t, 2, ok(first.Len(ctx))(t))
		require.ElementsMatch(t, []string{"foo", "bar"}, record[string](ok(first.Elements(ctx))(t)).rest(t))

		require.True(t, ok(first.Remove(ctx, "foo"))(t))
		require.Equal(t, "foo", elements.next(t), "a watch shows a removal as the element")
		require.Equal(t, "foo", as[*set.Removed[string]](t, events.next(t)).Element)
		setContains(ctx, t, first, "foo", false)
		setContains(ctx, t, second, "foo", false)
		require.False(t, ok(first.Remove(ctx, "foo"))(t))

		require.True(t, ok(first.Add(ctx, "baz"))(t))
		require.Equal(t, "baz", elements.next(t))
		require.Equal(t, "baz", as[*set.Added[string]](t, events.next(t)).Element)
		require.NoError(t, first.Clear(ctx))
		require.ElementsMatch(t, []string{"bar", "baz"}, []string{elements.next(t), elements.next(t)})
		require.ElementsMatch(t, []string{"bar", "baz"}, []string{
			as[*set.Removed[string]](t, events.next(t)).Element,
			as[*set.Removed[string]](t, events.next(t)).Element,
		})
		require.Equal(t, 0, ok(second.Len(ctx))(t))
		setContains(ctx, t, first, "bar", false)
		setContains(ctx, t, second, "baz", false)

		elements.quiet(t)
		events.quiet(t)
		stopWatching()
		require.Empty(t, elements.rest(t))
		require.NoError(t, first.Close(ctx))
		require.NoError(t, second.Close(ctx))
		require.Empty(t, events.rest(t), "the close of a client ends its streams")
	})
}

func TestSetCacheHoldsMoreElementsThanItsSize(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		writer := getSet(ctx, t, name, tags)
		for i := 0; i < 10; i++ {
			require.True(t, ok(writer.Add(ctx, fmt.Sprint(i)))(t))
		}
		reader := getSet(ctx, t, name, tags)
		for i := 0; i < 10; i++ {
			setContains(ctx, t, reader, fmt.Sprint(i), true)
			setContains(ctx, t, writer, fmt.Sprint(i), true)
		}
		for i := 0; i < 10; i++ {
			require.True(t, ok(reader.Remove(ctx, fmt.Sprint(i)))(t))
			setContains(ctx, t, writer, fmt.Sprint(i), false)
		}
	})
}

// The SDK's Add takes no time to live, so the element is added by the stub and seen by the SDK.
func TestSetExpiresElements(t *testing.T) {
	each(t, func(t *testing.T, tags []string) {
		ctx := begin(t)
		name := freshName()
		reader := getSet(ctx, t, name, tags)
		events := record[set.Event[string]](ok(reader.Events(ctx))(t))
		conn := dial(t)
		ok(setv1.NewSetsClient(conn).Create(ctx, &setv1.CreateRequest{ID: id(name)}))(t)
		stub := setv1.NewSetClient(conn)
		raw := record[*setv1.EventsResponse](received[*setv1.EventsResponse](
			ok(stub.Events(ctx, &setv1.EventsRequest{ID: id(name)}))(t).Recv))
		require.Nil(t, raw.next(t).Event.Event, "the acknowledgement")

		const ttl = 600 * time.Millisecond
		element := setv1.Element{Value: "Zm9v"} // "foo" as the SDK writes it.
		short := ttl
		added := ok(stub.Add(ctx, &setv1.AddRequest{ID: id(name), Element: element, TTL: &short}))(t)
		require.True(t, added.Added)
		setContains(ctx, t, reader, "foo", true)
		require.Equal(t, "foo", as[*set.Added[string]](t, events.next(t)).Element)
		require.Equal(t, "foo", as[*set.Removed[string]](t, events.next(t)).Element)
		as[*setv1.Event_Added_](t, raw.next(t).Event.Event)
		removed := as[*setv1.Event_Removed_](t, raw.next(t).Event.Event).Removed
		require.Equal(t, element, removed.Element)
		require.True(t, removed.Expired)
		setContains(ctx, t, reader, "foo", false)
		require.Equal(t, 0, ok(reader.Len(ctx))(t))
	})
}

func TestSetAnswersRefusalsAsErrors(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	conn := dial(t)
	ok(setv1.NewSetsClient(conn).Create(ctx, &setv1.CreateRequest{ID: id(name)}))(t)
	stub := setv1.NewSetClient(conn)
	element := setv1.Element{Value: "foo"}

	_, err := stub.Remove(ctx, &setv1.RemoveRequest{ID: id(name), Element: element})
	requireCode(t, codes.NotFound, err)
	require.True(t, ok(stub.Add(ctx, &setv1.AddRequest{ID: id(name), Element: element}))(t).Added)
	short := 200 * time.Millisecond
	_, err = stub.Add(ctx, &setv1.AddRequest{ID: id(name), Element: element, TTL: &short})
	requireCode(t, codes.AlreadyExists, err)
	time.Sleep(2 * short)
	require.True(t, ok(stub.Contains(ctx, &setv1.ContainsRequest{ID: id(name), Element: element}))(t).Contains,
		"a refused add leaves the time to live alone")
	require.True(t, ok(stub.Remove(ctx, &setv1.RemoveRequest{ID: id(name), Element: element}))(t).Removed)
}

func TestSetCarriesTypedElements(t *testing.T) {
	ctx := begin(t)
	s := ok(client.Set[account](open(t))(freshName()).Codec(types.JSON[account]()).Get(ctx))(t)
	require.True(t, ok(s.Add(ctx, account{"one", 1}))(t))
	require.True(t, ok(s.Add(ctx, account{"one", 2}))(t))
	require.False(t, ok(s.Add(ctx, account{"one", 1}))(t))
	require.True(t, ok(s.Contains(ctx, account{"one", 2}))(t))
	require.ElementsMatch(t, []account{{"one", 1}, {"one", 2}}, record[account](ok(s.Elements(ctx))(t)).rest(t))
}
