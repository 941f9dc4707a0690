package main

import (
	"maps"
	"slices"

	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// registry tells Vault's plugin catalogue which plugins are built in; a mount panics without one.
type registry map[consts.PluginType]map[string]func() (any, error)

func newRegistry(engines, methods map[string]logical.Factory) registry {
	made := func(factories map[string]logical.Factory) map[string]func() (any, error) {
		all := map[string]func() (any, error){}
		for name, factory := range factories {
			all[name] = func() (any, error) { return factory, nil }
		}
		return all
	}
	databases := map[string]func() (any, error){"postgresql-database-plugin": postgresql.New}
	return registry{
		consts.PluginTypeSecrets: made(engines), consts.PluginTypeCredential: made(methods), consts.PluginTypeDatabase: databases,
	}
}

func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	if kind != consts.PluginTypeUnknown {
		factory, ok := r[kind][name]
		return factory, ok
	}
	for _, plugins := range r {
		if factory, ok := plugins[name]; ok {
			return factory, true
		}
	}
	return nil, false
}

func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r.Get(name, kind)
	return ok
}

func (r registry) Keys(kind consts.PluginType) []string {
	return slices.Sorted(maps.Keys(r[kind]))
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
