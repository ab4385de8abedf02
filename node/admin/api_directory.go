package admin

import (
	"context"
	"net/http"
)

type domainAdd struct {
	Changing
	Body Domain
}

type named struct {
	DryChanging
	Name string `path:"name"`
}

type domainSetInput struct {
	Changing
	Name string `path:"name"`
	Body DomainSet
}

type usersInput struct {
	Reading
	Domain string `query:"domain" doc:"only accounts of this domain"`
}

type userInput struct {
	Reading
	Address string `path:"address"`
}

type userAddInput struct {
	Changing
	Body UserAdd
}

type userSetInput struct {
	Changing
	Address string `path:"address"`
	Body    UserSet
}

type addressed struct {
	DryChanging
	Address string `path:"address"`
}

func (s *server) registerDomains() {
	d := s.Ports.Domains
	handle(s, http.MethodGet, "/v1/domains", "The local domains",
		func(ctx context.Context, _ *none) (*body[[]Domain], error) {
			return answerList(d.Domains(ctx))
		})
	handle(s, http.MethodPost, "/v1/domains", "Add a local domain",
		func(ctx context.Context, in *domainAdd) (*nothing, error) {
			return &nothing{}, d.AddDomain(ctx, in.by(ctx), in.Body)
		})
	handle(s, http.MethodPatch, "/v1/domains/{name}", "Change a local domain",
		func(ctx context.Context, in *domainSetInput) (*nothing, error) {
			return &nothing{}, d.SetDomain(ctx, in.by(ctx), in.Name, in.Body)
		})
	handle(s, http.MethodDelete, "/v1/domains/{name}", "Remove a local domain",
		func(ctx context.Context, in *named) (*body[*Removed], error) {
			return answer(d.RemoveDomain(ctx, in.by(ctx), in.Name, DropOptions{in.DryRun}))
		})
}

func (s *server) registerUsers() {
	u := s.Ports.Users
	handle(s, http.MethodGet, "/v1/users", "The accounts",
		func(ctx context.Context, in *usersInput) (*body[[]User], error) {
			return answerList(u.Users(ctx, in.Domain))
		})
	handle(s, http.MethodPost, "/v1/users", "Add an account",
		func(ctx context.Context, in *userAddInput) (*nothing, error) {
			return &nothing{}, u.AddUser(ctx, in.by(ctx), in.Body)
		})
	handle(s, http.MethodGet, "/v1/users/{address}", "One account",
		func(ctx context.Context, in *userInput) (*body[*User], error) {
			return answer(u.User(ctx, in.Address))
		})
	handle(s, http.MethodPatch, "/v1/users/{address}", "Change an account",
		func(ctx context.Context, in *userSetInput) (*nothing, error) {
			return &nothing{}, u.SetUser(ctx, in.by(ctx), in.Address, in.Body)
		})
	handle(s, http.MethodDelete, "/v1/users/{address}", "Remove an account and its mailbox",
		func(ctx context.Context, in *addressed) (*body[*Removed], error) {
			return answer(u.RemoveUser(ctx, in.by(ctx), in.Address, DropOptions{in.DryRun}))
		})
}

type aliasInput struct {
	Changing
	Address string `path:"address"`
	Body    struct {
		Targets []string `json:"targets" minItems:"1"`
		Owner   string   `json:"owner,omitempty" doc:"reverse-path of list mail; empty: the sender's"`
		Replace bool     `json:"replace,omitempty" doc:"allow that an account of this address gets no mail any more; without it, name the address among its own targets to keep a copy"`
	}
}

type aliasRemove struct {
	Changing
	Address string `path:"address"`
}

func (s *server) registerAliases() {
	a := s.Ports.Aliases
	handle(s, http.MethodGet, "/v1/aliases", "The aliases", func(ctx context.Context, _ *none) (*body[[]Alias], error) {
		return answerList(a.Aliases(ctx))
	})
	handle(s, http.MethodPut, "/v1/aliases/{address}", "Set an alias",
		func(ctx context.Context, in *aliasInput) (*nothing, error) {
			return &nothing{}, a.SetAlias(ctx, in.by(ctx), Alias{
				Address: in.Address, Targets: in.Body.Targets, Owner: in.Body.Owner, Replace: in.Body.Replace,
			})
		})
	handle(s, http.MethodDelete, "/v1/aliases/{address}", "Remove an alias",
		func(ctx context.Context, in *aliasRemove) (*nothing, error) {
			return &nothing{}, a.RemoveAlias(ctx, in.by(ctx), in.Address)
		})
}

type routeInput struct {
	Changing
	Domain string `path:"domain" doc:"or *"`
	Body   struct {
		Target string   `json:"target" minLength:"1"`
		NoEHLO []string `json:"no_ehlo,omitempty" required:"false" doc:"EHLO keywords of the hop that do not count"`
		RouteSenders
		RouteHops
		RouteTLS
		RouteLogin
		RouteCert
	}
}

type routeRemove struct {
	Changing
	Domain string `path:"domain"`
	RouteSenders
}

func (s *server) registerRoutes() {
	r := s.Ports.Routes
	handle(s, http.MethodGet, "/v1/routes", "The routes", func(ctx context.Context, _ *none) (*body[[]Route], error) {
		return answerList(r.Routes(ctx))
	})
	handle(s, http.MethodPut, "/v1/routes/{domain}", "Set a route",
		func(ctx context.Context, in *routeInput) (*nothing, error) {
			return &nothing{}, r.SetRoute(ctx, in.by(ctx), Route{
				Domain: in.Domain, Target: in.Body.Target, NoEHLO: in.Body.NoEHLO, RouteTLS: in.Body.RouteTLS,
				RouteLogin: in.Body.RouteLogin, RouteHops: in.Body.RouteHops, RouteCert: in.Body.RouteCert,
				RouteSenders: in.Body.RouteSenders,
			})
		})
	handle(s, http.MethodDelete, "/v1/routes/{domain}", "Remove a route",
		func(ctx context.Context, in *routeRemove) (*nothing, error) {
			return &nothing{}, r.RemoveRoute(ctx, in.by(ctx), in.Domain, in.RouteSenders)
		})
	s.registerRecipients()
}

type settingsInput struct {
	Changing
	Body Settings
}

func (s *server) registerPolicy() {
	p := s.Ports.Policy
	handle(s, http.MethodGet, "/v1/settings", "The replicated settings",
		func(ctx context.Context, _ *none) (*body[*Settings], error) {
			return answer(p.Settings(ctx))
		})
	handle(s, http.MethodPut, "/v1/settings", "Replace the settings",
		func(ctx context.Context, in *settingsInput) (*nothing, error) {
			return &nothing{}, p.SetSettings(ctx, in.by(ctx), in.Body)
		})
}
