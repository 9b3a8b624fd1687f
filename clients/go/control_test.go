// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"testing"

	runtimev1 "github.com/atomix/atomix/api/runtime/v1"
	"google.golang.org/grpc/codes"
)

func TestControlConnectsAndDisconnectsAStore(t *testing.T) {
	ctx := begin(t)
	control := runtimev1.NewRuntimeClient(dialControl(t))
	store := runtimev1.StoreID{Namespace: "go-scenarios", Name: freshName()}
	connect := &runtimev1.ConnectRequest{
		StoreID:  store,
		DriverID: runtimev1.DriverID{Name: "memory", APIVersion: "v1"},
		Config:   jsonConfig(`{}`),
	}

	_, err := control.Configure(ctx, &runtimev1.ConfigureRequest{StoreID: store, Config: jsonConfig(`{}`)})
	requireCode(t, codes.NotFound, err)
	_, err = control.Disconnect(ctx, &runtimev1.DisconnectRequest{StoreID: store})
	requireCode(t, codes.NotFound, err)
	ok(control.Connect(ctx, connect))(t)
	_, err = control.Connect(ctx, connect)
	requireCode(t, codes.AlreadyExists, err)
	ok(control.Configure(ctx, &runtimev1.ConfigureRequest{StoreID: store, Config: jsonConfig(`{}`)}))(t)
	ok(control.Disconnect(ctx, &runtimev1.DisconnectRequest{StoreID: store}))(t)
	_, err = control.Disconnect(ctx, &runtimev1.DisconnectRequest{StoreID: store})
	requireCode(t, codes.NotFound, err)

	// The original needs a config, and without one it crashes.
	connect.Config = nil
	ok(control.Connect(ctx, connect))(t)
	ok(control.Disconnect(ctx, &runtimev1.DisconnectRequest{StoreID: store}))(t)
	connect.Config = jsonConfig(`["no object"]`)
	_, err = control.Connect(ctx, connect)
	requireCode(t, codes.InvalidArgument, err)
}

func TestControlTakesTheSameRoutesAgain(t *testing.T) {
	ctx := begin(t)
	control := runtimev1.NewRuntimeClient(dialControl(t))
	ok(control.Program(ctx, testRoutes()))(t)
}
