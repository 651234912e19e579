// An operator as most are written: a manager of controller-runtime with its cache, leader election, a finalizer, an owned
// ConfigMap by server-side apply, events, and a status with conditions. It prints a line for each thing that happens.
//
//	operator NAME     (KUBECONFIG names the cluster)
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	finalizer = "clients.example/anchored"
	byLength  = "spec.length"
)

var kind = schema.GroupVersionKind{Group: "clients.example", Version: "v1", Kind: "Boat"}

type harbour struct {
	client.Client
	identity string
	recorder events.EventRecorder
}

func boats() *unstructured.Unstructured {
	made := &unstructured.Unstructured{}
	made.SetGroupVersionKind(kind)
	return made
}

func (h *harbour) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	boat := boats()
	if err := h.Get(ctx, request.NamespacedName, boat); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !boat.GetDeletionTimestamp().IsZero() {
		if controllerutil.RemoveFinalizer(boat, finalizer) {
			fmt.Println("anchored", boat.GetName())
			return ctrl.Result{}, client.IgnoreNotFound(h.Update(ctx, boat))
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(boat, finalizer) {
		return ctrl.Result{}, h.Update(ctx, boat)
	}
	length, _, err := unstructured.NestedInt64(boat.Object, "spec", "length")
	if err != nil {
		return ctrl.Result{}, err
	}
	papers := corev1apply.ConfigMap(boat.GetName()+"-papers", boat.GetNamespace()).
		WithData(map[string]string{"length": fmt.Sprint(length)}).
		WithOwnerReferences(metav1apply.OwnerReference().WithAPIVersion("clients.example/v1").WithKind("Boat").
			WithName(boat.GetName()).WithUID(boat.GetUID()).WithController(true).WithBlockOwnerDeletion(true))
	if err := h.Apply(ctx, papers, client.FieldOwner("operator"), client.ForceOwnership); err != nil {
		return ctrl.Result{}, err
	}
	twins := &unstructured.UnstructuredList{}
	twins.SetGroupVersionKind(kind)
	if err := h.List(ctx, twins, client.InNamespace(boat.GetNamespace()), client.MatchingFields{byLength: fmt.Sprint(length)}); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, h.tell(ctx, boat, length, int64(len(twins.Items)))
}

// tell writes the status if it changes, and posts an event with it.
func (h *harbour) tell(ctx context.Context, boat *unstructured.Unstructured, length, twins int64) error {
	before := boat.DeepCopy()
	found, _, _ := unstructured.NestedSlice(boat.Object, "status", "conditions")
	conditions := []metav1.Condition{}
	for _, one := range found {
		raw, ok := one.(map[string]any)
		if !ok {
			return errors.New("a condition is no object")
		}
		at, err := time.Parse(time.RFC3339, fmt.Sprint(raw["lastTransitionTime"]))
		if err != nil {
			return err
		}
		conditions = append(conditions, metav1.Condition{
			Type: fmt.Sprint(raw["type"]), Status: metav1.ConditionStatus(fmt.Sprint(raw["status"])),
			Reason: fmt.Sprint(raw["reason"]), Message: fmt.Sprint(raw["message"]), LastTransitionTime: metav1.NewTime(at),
		})
	}
	meta.SetStatusCondition(&conditions, metav1.Condition{
		Type: "Launched", Status: metav1.ConditionTrue, Reason: "Afloat", Message: fmt.Sprintf("%d metres long", length),
	})
	raw := []any{}
	for _, one := range conditions {
		raw = append(raw, map[string]any{
			"type": one.Type, "status": string(one.Status), "reason": one.Reason, "message": one.Message,
			"lastTransitionTime": one.LastTransitionTime.UTC().Format(time.RFC3339),
		})
	}
	for name, value := range map[string]any{"launched": length, "twins": twins, "by": h.identity, "conditions": raw} {
		if err := unstructured.SetNestedField(boat.Object, value, "status", name); err != nil {
			return err
		}
	}
	if err := h.Status().Patch(ctx, boat, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	if boat.GetResourceVersion() != before.GetResourceVersion() {
		fmt.Println("launched", boat.GetName(), length)
		h.recorder.Eventf(boat, nil, corev1.EventTypeNormal, "Launched", "Launch", "%d metres long", length)
	}
	return nil
}

func run() error {
	ctrl.SetLogger(zap.New())
	manager, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		Client:                        client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		LeaderElection:                true,
		LeaderElectionID:              "boats",
		LeaderElectionNamespace:       "default",
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	made := &harbour{Client: manager.GetClient(), identity: os.Args[1], recorder: manager.GetEventRecorder("operator")}
	length := func(object client.Object) []string {
		found, _, _ := unstructured.NestedInt64(object.(*unstructured.Unstructured).Object, "spec", "length")
		return []string{fmt.Sprint(found)}
	}
	if err := manager.GetFieldIndexer().IndexField(context.Background(), boats(), byLength, length); err != nil {
		return err
	}
	if err := ctrl.NewControllerManagedBy(manager).For(boats()).Owns(&corev1.ConfigMap{}).Complete(made); err != nil {
		return err
	}
	go func() {
		<-manager.Elected()
		fmt.Println("leads", os.Args[1])
	}()
	return manager.Start(ctrl.SetupSignalHandler())
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
