"""Where the modules of version 1593339 are now, and what their public names are called now.

Listed are the modules that code outside this package may import: the contracts of plug-ins, the
built-in implementations that they extend, and modules that are run by commands in rendered files.
Paths are relative to `orchestrator`.
`orchestrator.plan` is left out: it is the function `plan`, and a module would hide it.
"""

MODULES = {
    "bench.ball": "bench.toy_source",
    "clusters.leave": "clusters.prestop_hook",
    "data.augment": "data.loader.augment",
    "data.batch": "data.loader.batch",
    "data.clips": "data.loader.clip_reader",
    "data.dataset": "data.packing.dataset",
    "data.decode": "data.codec.decode",
    "data.encode": "data.codec.encode",
    "data.feed": "data.loader.data_loader",
    "data.folder": "data.sources.folder",
    "data.index": "data.store.index",
    "data.inputs": "data.sources.inputs",
    "data.lerobot": "data.sources.lerobot.source",
    "data.moving": "data.loader.action_data",
    "data.probe": "data.codec.video_probe",
    "data.select": "data.packing.subset",
    "data.sources": "data.sources.base",
    "data.tars": "data.sources.tars",
    "data.transcode": "data.codec.transcode",
    "evaluation.features": "features",
    "evaluation.features.notes": "features.clip_annotations",
    "evaluation.features.reader": "features.reader",
    "evaluation.judgeable": "evaluation.evaluable",
    "jepa.acting": "jepa.action_conditioned",
    "jepa.actions": "jepa.predictors.action_conditioning",
    "jepa.blocks": "jepa.transformer",
    "jepa.causal": "jepa.objectives.causal.predictor",
    "jepa.codes": "jepa.encoders.pca",
    "jepa.convolutional": "jepa.encoders.convolutional",
    "jepa.dense": "jepa.objectives.vjepa21.predictor",
    "jepa.encoder": "jepa.encoders.vision_transformer",
    "jepa.frames": "jepa.objectives.lewm.predictor",
    "jepa.hub": "jepa.model_files",
    "jepa.huggingface": "jepa.interop.huggingface",
    "jepa.motion": "jepa.action_batch",
    "jepa.objectives.causal": "jepa.objectives.causal.objective",
    "jepa.objectives.dynamics": "jepa.objectives.dynamics.objective",
    "jepa.objectives.frozen": "jepa.objectives.frozen.objective",
    "jepa.objectives.lejepa": "jepa.objectives.lejepa.objective",
    "jepa.objectives.lewm": "jepa.objectives.lewm.objective",
    "jepa.objectives.pixels": "jepa.objectives.pixels.objective",
    "jepa.objectives.pooled": "jepa.objectives.batch_statistic",
    "jepa.objectives.supervised": "jepa.objectives.supervised.objective",
    "jepa.objectives.vjepa2": "jepa.objectives.vjepa2.objective",
    "jepa.objectives.vjepa21": "jepa.objectives.vjepa21.objective",
    "jepa.objectives.vjepa2ac": "jepa.objectives.vjepa2ac.objective",
    "jepa.parts": "jepa.model_config",
    "jepa.patches": "jepa.encoders.patch_embed",
    "jepa.pictures": "jepa.visualization",
    "jepa.pixels": "jepa.pixel_normalization",
    "jepa.predictor": "jepa.predictors.masked",
    "jepa.recurrent": "jepa.objectives.dynamics.predictor",
    "jepa.sigreg": "jepa.objectives.sigreg",
    "jepa.world": "jepa.world_model",
    "job.act": "job.config.actions",
    "job.data": "job.config.data",
    "job.evaluate": "job.config.evaluate",
    "job.loading": "job.loading.load",
    "job.masks": "job.config.masks",
    "job.model": "job.config.model",
    "job.objective": "job",
    "job.pack": "job.config.pack",
    "job.parts": "job.loading.custom_components",
    "job.scale": "job.config.scale",
    "job.train": "job.config.train",
    "job.tune": "job.config.tune",
    "physics.motion": "physics.simulation",
    "physics.simulate": "physics.simulated_video",
    "physics.suite": "physics.suite.quads",
    "physics.world": "physics.scene",
    "planning.control": "planning.mpc",
    "planning.costs": "planning.goal_cost",
    "planning.foreign": "planning.stable_worldmodel",
    "planning.once": "planning.plan_api",
    "profile": "cluster_profile",
    "profile.loading": "cluster_profile.loading",
    "profile.schema": "cluster_profile.schema",
    "worlds": "environments",
    "worlds.base": "environments.base",
    "worlds.drop": "environments.drop",
    "worlds.gym": "environments.gymnasium",
    "worlds.lever": "environments.lever",
    "worlds.push_t": "environments.push_t",
    "worlds.registry": "environments.registry",
    "worlds.rigid": "environments.rigid_body",
    "worlds.source": "environments.source",
    "worlds.two_rooms": "environments.two_rooms",
}
"""Old module to new module."""

NAMES = {
    "bench.ball": "BallConfig=BouncingBallConfig",
    "clusters.leave": "leave_head=stop_drivers leave_worker=drain_worker",
    "data.augment": (
        "Augment=Augmentation CropFlipCutter=CropFlipFrameReader "
        "CustomCutter=CustomFrameReader Cutter=FrameReader build_cutter=build_frame_reader "
        "draw_crop=sample_crop"
    ),
    "data.batch": "Failure=ClipFailure",
    "data.clips": "Clips=ClipIndex Span=ClipLocations",
    "data.dataset": (
        "complete=finalize_dataset describe=read_dataset_info "
        "first_reasons=summarize_rejected tidy=remove_leftovers"
    ),
    "data.decode": "clip_times=sample_frame_times",
    "data.encode": "h264_stream=add_h264_stream",
    "data.feed": (
        "FailureCount=FailureLimit Feed=ClipDataLoader LocalRows=LocalRowSource "
        "Rows=RowSource bytes_of_clip=estimate_clip_bytes check_dealt=check_rank_positions "
        "open_feed=open_data_loader"
    ),
    "data.index": "Index=DatasetIndex",
    "data.inputs": (
        "clips_of_file=data.sources.raw_clips:read_clips identity_of=file_identity "
        "key_of=data.sources.raw_clips:clip_key_prefix "
        "open_file=open_buffered"
    ),
    "data.lerobot": "check_times=check_episode_frames cut_out=encode_episode",
    "data.moving": (
        "Moved=ClipActions Mover=ActionReader Numbers=IntArray arrays_of=required_arrays "
        "clip_frames=sample_frame_indices complete=require_resolved "
        "steps_between=control_steps_per_frame"
    ),
    "data.probe": "VideoFacts=VideoInfo probe=probe_video",
    "data.select": (
        "Keep=ClipPredicate longer_than=filter_by_duration mark=split_fraction "
        "some_clips=write_subset"
    ),
    "data.tars": "expand=expand_braces",
    "data.transcode": (
        "Encoder=SegmentEncoder Piece=EncodedSegment Shape=FrameConverter "
        "transcode=transcode_segments"
    ),
    "evaluation.features.notes": "Notes=ClipAnnotations notes_of=read_annotations",
    "evaluation.features.reader": "features_folder=resolve_features_folder",
    "evaluation.judgeable": (
        "Imagines=DecodesToPixels Judgeable=Evaluable ReadsForwards=PredictsNext "
        "load_judgeable=load_evaluable made_by=instantiate_import_path"
    ),
    "jepa.acting": (
        "ActingModel=ActionConditionedModel assemble=build_world_model "
        "random_model=randomly_initialized_model"
    ),
    "jepa.actions": (
        "AdaptiveBlock=AdaLNZeroBlock InverseDynamics=InverseDynamicsHead "
        "Standard=Standardizer ToldStates=StateHead standard_actions=action_standardizer "
        "standard_states=state_standardizer statistics_of=require_statistics"
    ),
    "jepa.blocks": "Past=KVCache Residual=ResidualStreamBlock attend=attention",
    "jepa.causal": "build_causal=build_causal_predictor",
    "jepa.codes": "CodesEncoder=PCAPatchEncoder",
    "jepa.convolutional": "ResidualBlock=ConvResidualBlock",
    "jepa.dense": "build_dense=build_dense_predictor",
    "jepa.frames": (
        "FrameEncoder=LeWMEncoder FramePredictor=LeWMPredictor Projection=Projector "
        "build_frame_encoder=build_lewm_encoder build_frame_predictor=build_lewm_predictor"
    ),
    "jepa.hub": (
        "check_start=check_initial_weights digest_of=weights_digest "
        "load_start=load_weights_into misfit=state_dict_mismatch "
        "outline=objective_on_meta_device read_start=read_initial_weights "
        "start_misfit=initial_weights_mismatch"
    ),
    "jepa.masks": (
        "Grid=TokenGrid Tokens=TokenMask build_masks=build_mask_samplers "
        "build_samplers=samplers_for"
    ),
    "jepa.motion": "Motion=ActionBatch",
    "jepa.objectives": (
        "GaussianObjective=jepa.objectives.batch_statistic:SIGRegObjective "
        "Pool=jepa.objectives.batch_statistic:ClipSets "
        "PooledObjective=jepa.objectives.batch_statistic:BatchStatisticObjective "
        "untaught_teacher=jepa.objectives.frozen.objective:randomly_initialized_teacher"
    ),
    "jepa.objectives.base": (
        "at_tokens=gather_tokens grid_of=token_grid_of shapes_are_fixed=have_static_shapes"
    ),
    "jepa.objectives.frozen": "untaught_teacher=randomly_initialized_teacher",
    "jepa.objectives.pixels": "normed_patches=normalize_patches",
    "jepa.objectives.pooled": (
        "GaussianObjective=SIGRegObjective Pool=ClipSets PooledObjective=BatchStatisticObjective"
    ),
    "jepa.objectives.vjepa21": "nearest=distance_to_nearest_target places=token_coordinates",
    "jepa.parts": (
        "encoder_of=build_model_encoder fresh_parts=randomly_initialized_modules "
        "predictor_of=build_model_predictor"
    ),
    "jepa.patches": "from_patches=unpatchify pixel_patches=patchify",
    "jepa.pixels": "as_pixels=denormalise",
    "jepa.predictor": "Predictor=MaskedPredictor build_predictor=build_masked_predictor",
    "jepa.recurrent": (
        "Memory=ConvGatedUnit Recalled=RecurrentState build_recurrent=build_recurrent_predictor"
    ),
    "jepa.sigreg": (
        "clip_losses=per_clip_losses knots=quadrature_knots statistics=epps_pulley "
        "unit_slices=random_slices"
    ),
    "job": (
        "Act=Actions Causal=CausalPrediction Codes=PCAEncoderConfig Conv=ConvEncoderConfig "
        "Dynamics=LatentDynamics Encode=TranscodeConfig Encoder=ViTConfig "
        "Frozen=FrozenTeacher Pixels=PixelPrediction Predictor=PredictorConfig "
        "StateReading=jepa.objectives.lewm.config:StateSupervision "
        "Statistics=ActionStatistics given_dict=explicit_job_dict "
        "import_part=import_component of_one_kind=require_single_clip_spec "
        "part_config=component_config reads_moments=encodes_timesteps_separately"
    ),
    "job.act": "Act=Actions Statistics=ActionStatistics",
    "job.evaluate": "Split=SuiteSplit",
    "job.fingerprint": "given_dict=explicit_job_dict",
    "job.model": (
        "Codes=PCAEncoderConfig Conv=ConvEncoderConfig Encoder=ViTConfig "
        "Predictor=PredictorConfig named_encoder=encoder_preset "
        "reads_moments=encodes_timesteps_separately"
    ),
    "job.objective": (
        "Causal=CausalPrediction Dynamics=LatentDynamics Frozen=FrozenTeacher "
        "Pixels=PixelPrediction StateReading=jepa.objectives.lewm.config:StateSupervision"
    ),
    "job.pack": "Encode=TranscodeConfig",
    "job.parts": (
        "check_parts=check_components import_part=import_component part_config=component_config"
    ),
    "job.scale": "Elastic=ElasticWorkers Nodes=NodeShape",
    "job.train": "Evaluation=TrainingEvaluation",
    "physics.motion": "run=simulate_motion",
    "physics.simulate": "Simulation=SimulatedVideo simulate=simulate_video",
    "physics.suite": (
        "Draft=physics.suite.scenario:ScenarioDraft "
        "Lab=physics.suite.scenario:ScenarioSampler mirrored=physics.suite.scenario:mirror"
    ),
    "physics.world": (
        "Backdrop=Background Screen=Occluder Solid=StaticPolygon Thing=RigidBody "
        "half_planes=edge_half_planes rectangle=rectangle_vertices"
    ),
    "planning.base": (
        "Bounds=ActionBounds Branching=SupportsRolloutPlans Dynamics=PlannableModel Plan=ActionPlan"
    ),
    "planning.cem": "CrossEntropy=CEMSolver",
    "planning.control": "Controller=MPCController Recede=MPCConfig",
    "planning.costs": (
        "Aim=GoalDistance Known=PlanningContext Towards=GoalCost "
        "branch_by_rows=rollout_plans_one_by_one towards=goal_cost"
    ),
    "planning.foreign": "Ours=StableWorldModelAdapter PeerDynamics=StableWorldModelDynamics",
    "planning.mppi": "PathIntegral=MPPISolver",
    "planning.once": "Pictures=Images box=action_bounds plan_once=plan_actions",
    "planning.search": (
        "Best=BestPlans first_spread=initial_std inside=clip_to_bounds judged=evaluate_costs"
    ),
    "worlds": "WORLDS=ENVIRONMENTS build_world=build_environment",
    "worlds.base": "Picture=ImageArray World=Environment play=collect_episode",
    "worlds.drop": "Dropping=DropCollector",
    "worlds.gym": (
        "AnyAction=GymnasiumCollector GymWorld=GymnasiumEnvironment check_id=check_environment_id"
    ),
    "worlds.lever": "Pushing=LeverCollector",
    "worlds.push_t": "PushingAbout=PushTCollector middle_of_mass=center_of_mass",
    "worlds.registry": (
        "WORLDS=ENVIRONMENTS build_world=build_environment world_class=environment_class"
    ),
    "worlds.rigid": (
        "RigidWorld=RigidBodyEnvironment Stage=PhysicsSpace body=make_body "
        "cosine_sine=angle_features plain=visual_body"
    ),
    "worlds.source": "WorldSource=EnvironmentSource",
    "worlds.two_rooms": "DoorWalker=TwoRoomsCollector moved=next_position",
}
"""For each old module the pairs OLD=NEW; NEW is `module:Name` where it is in yet another module."""
