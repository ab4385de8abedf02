package admin

import (
	"context"
	"net/http"
	"time"
)

type nodeDrain struct {
	DryChanging
	ID            string  `path:"id"`
	NoticeSeconds float64 `query:"notice_seconds" minimum:"0" maximum:"600" default:"5" doc:"for how long new clients are still served, so that balancers can look away"`
}

type nodeUndrain struct {
	DryChanging
	ID string `path:"id"`
}

type nodeRemove struct {
	DryChanging
	ID    string `path:"id"`
	Force bool   `query:"force" doc:"even where quorum is lost"`
}

type transferInput struct {
	Changing
	To string `query:"to" doc:"node id; empty: any other"`
}

type upgradeInput struct {
	DryChanging
	Hold    bool `query:"hold" doc:"keep the cluster version where it is"`
	Release bool `query:"release" doc:"let it rise again"`
}

type rotateInput struct {
	DryChanging
	Without []string `query:"without" doc:"nodes that are removed first: they must join anew"`
}

type tokenInput struct {
	Changing
	Body TokenRequest
}

type verifyInput struct {
	Bodies bool `query:"bodies" doc:"also read every body and compare it with its digest"`
}

func (s *server) registerCluster() {
	c := s.Ports.Cluster
	handle(s, http.MethodGet, "/v1/status", "The cluster on one screen",
		func(ctx context.Context, _ *none) (*body[*Status], error) {
			return answer(c.Status(ctx))
		})
	handle(s, http.MethodGet, "/v1/nodes", "The members", func(ctx context.Context, _ *none) (*body[[]Node], error) {
		status, err := c.Status(ctx)
		if err != nil {
			return nil, err
		}
		return &body[[]Node]{status.Nodes}, nil
	})
	handle(s, http.MethodPost, "/v1/nodes/token", "Make a join token",
		func(ctx context.Context, in *tokenInput) (*body[*Token], error) {
			return answer(c.Token(ctx, in.by(ctx), in.Body))
		})
	handle(s, http.MethodDelete, "/v1/nodes/{id}", "Remove a node for good",
		func(ctx context.Context, in *nodeRemove) (*body[*NodeChange], error) {
			return answer(c.Remove(ctx, in.by(ctx), in.ID, RemoveOptions{DryRun: in.DryRun, Force: in.Force}))
		})
	handle(s, http.MethodPost, "/v1/nodes/{id}/drain", "Take a node out of service and hand its work over",
		func(ctx context.Context, in *nodeDrain) (*body[*NodeChange], error) {
			notice := time.Duration(in.NoticeSeconds * float64(time.Second))
			return answer(c.Drain(ctx, in.by(ctx), in.ID, DrainOptions{DryRun: in.DryRun, Notice: notice}))
		})
	handle(s, http.MethodPost, "/v1/nodes/{id}/undrain", "Let a drained node work again",
		func(ctx context.Context, in *nodeUndrain) (*body[*NodeChange], error) {
			return answer(c.Drain(ctx, in.by(ctx), in.ID, DrainOptions{Off: true, DryRun: in.DryRun}))
		})
	handle(s, http.MethodPost, "/v1/transfer", "Move leadership",
		func(ctx context.Context, in *transferInput) (*body[*NodeChange], error) {
			return answer(c.Transfer(ctx, in.by(ctx), in.To))
		})
	handle(s, http.MethodPost, "/v1/cluster/upgrade", "Raise the cluster version now, hold or release it",
		func(ctx context.Context, in *upgradeInput) (*body[*NodeChange], error) {
			return answer(c.Upgrade(ctx, in.by(ctx), UpgradeOptions{DryRun: in.DryRun, Hold: in.Hold, Release: in.Release}))
		})
	handle(s, http.MethodPost, "/v1/cluster/rotate-ca", "Change the CA of the cluster port",
		func(ctx context.Context, in *rotateInput) (*body[*NodeChange], error) {
			return answer(c.RotateCA(ctx, in.by(ctx), RotateOptions{DryRun: in.DryRun, Without: in.Without}))
		})
	handle(s, http.MethodPost, "/v1/verify", "Compare all nodes at one index",
		func(ctx context.Context, in *verifyInput) (*body[*Verification], error) {
			return answer(c.Verify(ctx, VerifyOptions(*in)))
		})
}
