// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"testing"

	counterv1 "github.com/atomix/atomix/api/runtime/counter/v1"
	countermapv1 "github.com/atomix/atomix/api/runtime/countermap/v1"
	electionv1 "github.com/atomix/atomix/api/runtime/election/v1"
	indexedmapv1 "github.com/atomix/atomix/api/runtime/indexedmap/v1"
	listv1 "github.com/atomix/atomix/api/runtime/list/v1"
	lockv1 "github.com/atomix/atomix/api/runtime/lock/v1"
	mapv1 "github.com/atomix/atomix/api/runtime/map/v1"
	multimapv1 "github.com/atomix/atomix/api/runtime/multimap/v1"
	setv1 "github.com/atomix/atomix/api/runtime/set/v1"
	topicv1 "github.com/atomix/atomix/api/runtime/topic/v1"
	valuev1 "github.com/atomix/atomix/api/runtime/value/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// service creates and closes a primitive of one type through one of its two services.
type service struct {
	name   string
	create func(ctx context.Context, name string) error
	close  func(ctx context.Context, name string) error
}

// services lists both services of every type: the SDK uses the second, older clients the first.
func services(conn *grpc.ClientConn) []service {
	return []service{
		calls("Counter", counterv1.NewCounterClient(conn).Create, counterv1.NewCounterClient(conn).Close,
			func(name string) (*counterv1.CreateRequest, *counterv1.CloseRequest) {
				return &counterv1.CreateRequest{ID: id(name)}, &counterv1.CloseRequest{ID: id(name)}
			}),
		calls("Counters", counterv1.NewCountersClient(conn).Create, counterv1.NewCountersClient(conn).Close,
			func(name string) (*counterv1.CreateRequest, *counterv1.CloseRequest) {
				return &counterv1.CreateRequest{ID: id(name)}, &counterv1.CloseRequest{ID: id(name)}
			}),
		calls("CounterMap", countermapv1.NewCounterMapClient(conn).Create, countermapv1.NewCounterMapClient(conn).Close,
			func(name string) (*countermapv1.CreateRequest, *countermapv1.CloseRequest) {
				return &countermapv1.CreateRequest{ID: id(name)}, &countermapv1.CloseRequest{ID: id(name)}
			}),
		calls("CounterMaps", countermapv1.NewCounterMapsClient(conn).Create, countermapv1.NewCounterMapsClient(conn).Close,
			func(name string) (*countermapv1.CreateRequest, *countermapv1.CloseRequest) {
				return &countermapv1.CreateRequest{ID: id(name)}, &countermapv1.CloseRequest{ID: id(name)}
			}),
		calls("LeaderElection", electionv1.NewLeaderElectionClient(conn).Create, electionv1.NewLeaderElectionClient(conn).Close,
			func(name string) (*electionv1.CreateRequest, *electionv1.CloseRequest) {
				return &electionv1.CreateRequest{ID: id(name)}, &electionv1.CloseRequest{ID: id(name)}
			}),
		calls("LeaderElections", electionv1.NewLeaderElectionsClient(conn).Create, electionv1.NewLeaderElectionsClient(conn).Close,
			func(name string) (*electionv1.CreateRequest, *electionv1.CloseRequest) {
				return &electionv1.CreateRequest{ID: id(name)}, &electionv1.CloseRequest{ID: id(name)}
			}),
		calls("IndexedMap", indexedmapv1.NewIndexedMapClient(conn).Create, indexedmapv1.NewIndexedMapClient(conn).Close,
			func(name string) (*indexedmapv1.CreateRequest, *indexedmapv1.CloseRequest) {
				return &indexedmapv1.CreateRequest{ID: id(name)}, &indexedmapv1.CloseRequest{ID: id(name)}
			}),
		calls("IndexedMaps", indexedmapv1.NewIndexedMapsClient(conn).Create, indexedmapv1.NewIndexedMapsClient(conn).Close,
			func(name string) (*indexedmapv1.CreateRequest, *indexedmapv1.CloseRequest) {
				return &indexedmapv1.CreateRequest{ID: id(name)}, &indexedmapv1.CloseRequest{ID: id(name)}
			}),
		calls("List", listv1.NewListClient(conn).Create, listv1.NewListClient(conn).Close,
			func(name string) (*listv1.CreateRequest, *listv1.CloseRequest) {
				return &listv1.CreateRequest{ID: id(name)}, &listv1.CloseRequest{ID: id(name)}
			}),
		calls("Lists", listv1.NewListsClient(conn).Create, listv1.NewListsClient(conn).Close,
			func(name string) (*listv1.CreateRequest, *listv1.CloseRequest) {
				return &listv1.CreateRequest{ID: id(name)}, &listv1.CloseRequest{ID: id(name)}
			}),
		calls("Lock", lockv1.NewLockClient(conn).Create, lockv1.NewLockClient(conn).Close,
			func(name string) (*lockv1.CreateRequest, *lockv1.CloseRequest) {
				return &lockv1.CreateRequest{ID: id(name)}, &lockv1.CloseRequest{ID: id(name)}
			}),
		calls("Locks", lockv1.NewLocksClient(conn).Create, lockv1.NewLocksClient(conn).Close,
			func(name string) (*lockv1.CreateRequest, *lockv1.CloseRequest) {
				return &lockv1.CreateRequest{ID: id(name)}, &lockv1.CloseRequest{ID: id(name)}
			}),
		calls("Map", mapv1.NewMapClient(conn).Create, mapv1.NewMapClient(conn).Close,
			func(name string) (*mapv1.CreateRequest, *mapv1.CloseRequest) {
				return &mapv1.CreateRequest{ID: id(name)}, &mapv1.CloseRequest{ID: id(name)}
			}),
		calls("Maps", mapv1.NewMapsClient(conn).Create, mapv1.NewMapsClient(conn).Close,
			func(name string) (*mapv1.CreateRequest, *mapv1.CloseRequest) {
				return &mapv1.CreateRequest{ID: id(name)}, &mapv1.CloseRequest{ID: id(name)}
			}),
		calls("MultiMap", multimapv1.NewMultiMapClient(conn).Create, multimapv1.NewMultiMapClient(conn).Close,
			func(name string) (*multimapv1.CreateRequest, *multimapv1.CloseRequest) {
				return &multimapv1.CreateRequest{ID: id(name)}, &multimapv1.CloseRequest{ID: id(name)}
			}),
		calls("MultiMaps", multimapv1.NewMultiMapsClient(conn).Create, multimapv1.NewMultiMapsClient(conn).Close,
			func(name string) (*multimapv1.CreateRequest, *multimapv1.CloseRequest) {
				return &multimapv1.CreateRequest{ID: id(name)}, &multimapv1.CloseRequest{ID: id(name)}
			}),
		calls("Set", setv1.NewSetClient(conn).Create, setv1.NewSetClient(conn).Close,
			func(name string) (*setv1.CreateRequest, *setv1.CloseRequest) {
				return &setv1.CreateRequest{ID: id(name)}, &setv1.CloseRequest{ID: id(name)}
			}),
		calls("Sets", setv1.NewSetsClient(conn).Create, setv1.NewSetsClient(conn).Close,
			func(name string) (*setv1.CreateRequest, *setv1.CloseRequest) {
				return &setv1.CreateRequest{ID: id(name)}, &setv1.CloseRequest{ID: id(name)}
			}),
		calls("Topic", topicv1.NewTopicClient(conn).Create, topicv1.NewTopicClient(conn).Close,
			func(name string) (*topicv1.CreateRequest, *topicv1.CloseRequest) {
				return &topicv1.CreateRequest{ID: id(name)}, &topicv1.CloseRequest{ID: id(name)}
			}),
		calls("Topics", topicv1.NewTopicsClient(conn).Create, topicv1.NewTopicsClient(conn).Close,
			func(name string) (*topicv1.CreateRequest, *topicv1.CloseRequest) {
				return &topicv1.CreateRequest{ID: id(name)}, &topicv1.CloseRequest{ID: id(name)}
			}),
		calls("Value", valuev1.NewValueClient(conn).Create, valuev1.NewValueClient(conn).Close,
			func(name string) (*valuev1.CreateRequest, *valuev1.CloseRequest) {
				return &valuev1.CreateRequest{ID: id(name)}, &valuev1.CloseRequest{ID: id(name)}
			}),
		calls("Values", valuev1.NewValuesClient(conn).Create, valuev1.NewValuesClient(conn).Close,
			func(name string) (*valuev1.CreateRequest, *valuev1.CloseRequest) {
				return &valuev1.CreateRequest{ID: id(name)}, &valuev1.CloseRequest{ID: id(name)}
			}),
	}
}

// calls builds a service from the stubs of its two methods.
func calls[Create, Created, Close, Closed any](
	name string,
	create func(context.Context, Create, ...grpc.CallOption) (Created, error),
	closer func(context.Context, Close, ...grpc.CallOption) (Closed, error),
	requests func(name string) (Create, Close),
) service {
	return service{
		name: name,
		create: func(ctx context.Context, primitive string) error {
			request, _ := requests(primitive)
			_, err := create(ctx, request)
			return err
		},
		close: func(ctx context.Context, primitive string) error {
			_, request := requests(primitive)
			_, err := closer(ctx, request)
			return err
		},
	}
}

// One name for all types: each type is a namespace of its own.
func TestEveryServiceCreatesAndCloses(t *testing.T) {
	ctx := begin(t)
	conn := dial(t)
	name := freshName()
	for _, s := range services(conn) {
		require.NoError(t, s.create(ctx, name), s.name)
		require.NoError(t, s.create(ctx, name), "%s: a second create succeeds", s.name)
	}
	for _, s := range services(conn) {
		require.NoError(t, s.close(ctx, name), s.name)
	}
	for _, s := range services(conn) {
		require.NoError(t, s.close(ctx, name), "%s: the close of an unknown name succeeds", s.name)
		require.NoError(t, s.create(ctx, ""), "%s: the empty name is a name", s.name)
		require.NoError(t, s.close(ctx, ""), s.name)
	}
}

func TestBothServicesShareThePrimitive(t *testing.T) {
	ctx := begin(t)
	conn := dial(t)
	name := freshName()
	ok(mapv1.NewMapClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name)}))(t)
	ok(mapv1.NewMapClient(conn).Put(ctx, &mapv1.PutRequest{ID: id(name), Key: "foo", Value: []byte("one")}))(t)
	ok(mapv1.NewMapsClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name)}))(t)
	got := ok(mapv1.NewMapClient(conn).Get(ctx, &mapv1.GetRequest{ID: id(name), Key: "foo"}))(t)
	require.Equal(t, []byte("one"), got.Value.Value)
	ok(mapv1.NewMapsClient(conn).Close(ctx, &mapv1.CloseRequest{ID: id(name)}))(t)
}

func TestCreateAnswersTheConfigOfTheRoute(t *testing.T) {
	ctx := begin(t)
	conn := dial(t)
	for _, route := range []struct {
		tags     []string
		expected mapv1.CacheConfig
	}{
		{nil, mapv1.CacheConfig{}},
		{[]string{mirrorTag}, mapv1.CacheConfig{Enabled: true}},
		{[]string{lruTag}, mapv1.CacheConfig{Enabled: true, Size_: 3}},
		{[]string{"unknown to all routes"}, mapv1.CacheConfig{}},
	} {
		name := freshName()
		response := ok(mapv1.NewMapsClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name), Tags: route.tags}))(t)
		require.Equal(t, route.expected, response.Config.Cache)
		response = ok(mapv1.NewMapClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name), Tags: route.tags}))(t)
		require.Equal(t, route.expected, response.Config.Cache)
	}
}

// The SDK would put a cache on one client of a primitive and none on another.
func TestCreateWithOtherTagsKeepsTheRoute(t *testing.T) {
	ctx := begin(t)
	conn := dial(t)
	name := freshName()
	expected := mapv1.CacheConfig{Enabled: true, Size_: 3}
	for _, tags := range [][]string{{lruTag}, {mirrorTag}, nil} {
		response := ok(mapv1.NewMapsClient(conn).Create(ctx, &mapv1.CreateRequest{ID: id(name), Tags: tags}))(t)
		require.Equal(t, expected, response.Config.Cache)
	}
}

// More than one acknowledgement would let the SDK believe that a stream is open before it is.
func TestEventsSendOneAcknowledgement(t *testing.T) {
	ctx := begin(t)
	conn := dial(t)
	name := freshName()
	for _, s := range services(conn) {
		require.NoError(t, s.create(ctx, name), s.name)
	}

	mapEvents := record[*mapv1.EventsResponse](received[*mapv1.EventsResponse](
		ok(mapv1.NewMapClient(conn).Events(ctx, &mapv1.EventsRequest{ID: id(name), Key: "foo"}))(t).Recv))
	require.Equal(t, mapv1.Event{Key: "foo"}, mapEvents.next(t).Event)
	indexedEvents := record[*indexedmapv1.EventsResponse](received[*indexedmapv1.EventsResponse](
		ok(indexedmapv1.NewIndexedMapClient(conn).Events(ctx, &indexedmapv1.EventsRequest{ID: id(name), Key: "foo"}))(t).Recv))
	require.Equal(t, indexedmapv1.Event{Key: "foo"}, indexedEvents.next(t).Event)
	counterEvents := record[*countermapv1.EventsResponse](received[*countermapv1.EventsResponse](
		ok(countermapv1.NewCounterMapClient(conn).Events(ctx, &countermapv1.EventsRequest{ID: id(name), Key: "foo"}))(t).Recv))
	require.Equal(t, countermapv1.Event{Key: "foo"}, counterEvents.next(t).Event)
	multiEvents := record[*multimapv1.EventsResponse](received[*multimapv1.EventsResponse](
		ok(multimapv1.NewMultiMapClient(conn).Events(ctx, &multimapv1.EventsRequest{ID: id(name), Key: "foo"}))(t).Recv))
	require.Equal(t, multimapv1.Event{Key: "foo"}, multiEvents.next(t).Event)
	setEvents := record[*setv1.EventsResponse](received[*setv1.EventsResponse](
		ok(setv1.NewSetClient(conn).Events(ctx, &setv1.EventsRequest{ID: id(name)}))(t).Recv))
	require.Equal(t, setv1.Event{}, setEvents.next(t).Event)
	valueEvents := record[*valuev1.EventsResponse](received[*valuev1.EventsResponse](
		ok(valuev1.NewValueClient(conn).Events(ctx, &valuev1.EventsRequest{ID: id(name)}))(t).Recv))
	require.Equal(t, valuev1.Event{}, valueEvents.next(t).Event)

	// A change follows the acknowledgement at once, also when nothing waited in between.
	ok(mapv1.NewMapClient(conn).Put(ctx, &mapv1.PutRequest{ID: id(name), Key: "foo"}))(t)
	as[*mapv1.Event_Inserted_](t, mapEvents.next(t).Event.Event)
	ok(indexedmapv1.NewIndexedMapClient(conn).Append(ctx, &indexedmapv1.AppendRequest{ID: id(name), Key: "foo"}))(t)
	as[*indexedmapv1.Event_Inserted_](t, indexedEvents.next(t).Event.Event)
	ok(countermapv1.NewCounterMapClient(conn).Set(ctx, &countermapv1.SetRequest{ID: id(name), Key: "foo"}))(t)
	as[*countermapv1.Event_Inserted_](t, counterEvents.next(t).Event.Event)
	ok(multimapv1.NewMultiMapClient(conn).Put(ctx, &multimapv1.PutRequest{ID: id(name), Key: "foo"}))(t)
	as[*multimapv1.Event_Added_](t, multiEvents.next(t).Event.Event)
	ok(setv1.NewSetClient(conn).Add(ctx, &setv1.AddRequest{ID: id(name)}))(t)
	as[*setv1.Event_Added_](t, setEvents.next(t).Event.Event)
	ok(valuev1.NewValueClient(conn).Set(ctx, &valuev1.SetRequest{ID: id(name)}))(t)
	as[*valuev1.Event_Created_](t, valueEvents.next(t).Event.Event)
}

// The SDK opens a stream that ends with UNAVAILABLE again at once, without a pause and without an end.
func TestStreamsOfUnknownPrimitivesEndForGood(t *testing.T) {
	ctx := begin(t)
	conn := dial(t)
	name := freshName()
	for method, receive := range map[string]func() error{
		"Map/Events": func() error {
			_, err := ok(mapv1.NewMapClient(conn).Events(ctx, &mapv1.EventsRequest{ID: id(name)}))(t).Recv()
			return err
		},
		"Map/Entries": func() error {
			_, err := ok(mapv1.NewMapClient(conn).Entries(ctx, &mapv1.EntriesRequest{ID: id(name), Watch: true}))(t).Recv()
			return err
		},
		"LeaderElection/Watch": func() error {
			_, err := ok(electionv1.NewLeaderElectionClient(conn).Watch(ctx, &electionv1.WatchRequest{ID: id(name)}))(t).Recv()
			return err
		},
		"Value/Watch": func() error {
			_, err := ok(valuev1.NewValueClient(conn).Watch(ctx, &valuev1.WatchRequest{ID: id(name)}))(t).Recv()
			return err
		},
		"Topic/Subscribe": func() error {
			_, err := ok(topicv1.NewTopicClient(conn).Subscribe(ctx, &topicv1.SubscribeRequest{ID: id(name)}))(t).Recv()
			return err
		},
	} {
		answer := make(chan error, 1)
		go func() { answer <- receive() }()
		err := record[error](onlyOnce(answer)).next(t)
		requireCode(t, codes.NotFound, err)
		require.Error(t, err, method)
	}
}

// onlyOnce makes a stream of a channel.
func onlyOnce[T any](ch <-chan T) received[T] {
	return func() (T, error) { return <-ch, nil }
}

// The SDK has no topic, its API module has.
func TestTopicDeliversInOrder(t *testing.T) {
	ctx := begin(t)
	name := freshName()
	publisher, subscriber := dial(t), dial(t)
	ok(topicv1.NewTopicsClient(publisher).Create(ctx, &topicv1.CreateRequest{ID: id(name)}))(t)
	ok(topicv1.NewTopicsClient(subscriber).Create(ctx, &topicv1.CreateRequest{ID: id(name)}))(t)
	publish := func(payload string) {
		t.Helper()
		ok(topicv1.NewTopicClient(publisher).Publish(ctx, &topicv1.PublishRequest{ID: id(name), Payload: []byte(payload)}))(t)
	}

	publish("before")
	stream := ok(topicv1.NewTopicClient(subscriber).Subscribe(ctx, &topicv1.SubscribeRequest{ID: id(name)}))(t)
	// The headers are the sign that the subscription is registered.
	ok(stream.Header())(t)
	messages := record[*topicv1.SubscribeResponse](received[*topicv1.SubscribeResponse](stream.Recv))
	messages.quiet(t)

	var last uint64
	for _, payload := range []string{"one", "two", ""} {
		publish(payload)
		message := messages.next(t)
		require.Equal(t, payload, string(message.Payload))
		require.Greater(t, message.Offset, last)
		require.NotNil(t, message.Timestamp)
		last = message.Offset
	}
	messages.quiet(t)
	ok(topicv1.NewTopicsClient(subscriber).Close(ctx, &topicv1.CloseRequest{ID: id(name)}))(t)
	require.Empty(t, messages.rest(t))
	publish("after")
}
