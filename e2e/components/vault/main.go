// Command vault is a real Vault for Lockstep's tests and demo: Vault's own core, HTTP handler and plugins, on in-memory
// storage, initialised, unsealed and with a root token of a known id. It listens on loopback only and is never shipped.
//
// With -tls-addr it serves TLS too and asks for client certificates; with -ldap-addr it starts a small LDAP directory
// with one user, for the ldap auth method. It prints "ready" once it answers.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/hashicorp/go-hclog"
	authgcp "github.com/hashicorp/vault-plugin-auth-gcp/plugin"
	authjwt "github.com/hashicorp/vault-plugin-auth-jwt"
	authkube "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	authaws "github.com/hashicorp/vault/builtin/credential/aws"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/credential/ldap"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8200", "address of the plain HTTP listener")
	tlsAddr := flag.String("tls-addr", "", "address of the TLS listener; none when empty")
	tlsCert := flag.String("tls-cert", "", "PEM file with the listener's certificate")
	tlsKey := flag.String("tls-key", "", "PEM file with the listener's key")
	ldapAddr := flag.String("ldap-addr", "", "address of an LDAP directory to start; none when empty")
	ldapPassword := flag.String("ldap-password", "", "password of the directory's user")
	root := flag.String("root", "root", "id of the root token")
	flag.Parse()

	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr})
	storage, err := inmem.NewInmem(nil, logger)
	must(err)
	engines := map[string]logical.Factory{"database": database.Factory, "kv": kv.Factory, "pki": pki.Factory}
	methods := map[string]logical.Factory{
		"approle": approle.Factory, "aws": authaws.Factory, "cert": cert.Factory, "gcp": authgcp.Factory, "jwt": authjwt.Factory,
		"kubernetes": authkube.Factory, "ldap": ldap.Factory, "userpass": userpass.Factory,
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: storage, Logger: logger, DisableMlock: true, RedirectAddr: "http://" + *addr,
		AuditBackends:   map[string]audit.Factory{"file": audit.NewFileBackend},
		LogicalBackends: engines, CredentialBackends: methods, BuiltinRegistry: newRegistry(engines, methods),
	})
	must(err)
	one := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	keys, err := core.Initialize(context.Background(), &vault.InitParams{BarrierConfig: one, RecoveryConfig: one})
	must(err)
	for _, share := range keys.SecretShares {
		_, err := core.Unseal(vault.TestKeyCopy(share))
		must(err)
	}
	_, err = core.HandleRequest(namespace.RootContext(context.Background()), &logical.Request{
		Operation: logical.UpdateOperation, Path: "auth/token/create", ClientToken: keys.RootToken,
		Data: map[string]any{"id": *root, "policies": []string{"root"}, "no_parent": true},
	})
	must(err)

	if *ldapAddr != "" {
		must(serveDirectory(*ldapAddr, *ldapPassword))
	}
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}})
	if *tlsAddr != "" {
		pair, err := tls.LoadX509KeyPair(*tlsCert, *tlsKey)
		must(err)
		listener, err := tls.Listen("tcp", *tlsAddr, &tls.Config{
			Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12,
		})
		must(err)
		go func() { must(http.Serve(listener, handler)) }()
	}
	listener, err := net.Listen("tcp", *addr)
	must(err)
	fmt.Println("ready")
	must(http.Serve(listener, handler))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
