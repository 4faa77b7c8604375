"""The result as a DICOM structured report: Comprehensive SR, by template TID 1500.

PS3.16 A: a flag, a probability and its threshold, said by a device whose algorithm is named; nothing that only a reader
may say. It stays preliminary and unverified.
"""

from typing import Any, Final

from pneumowatch import __version__
from pneumowatch.dicom import MAKER
from pneumowatch.outgoing.notice import Notice
from pneumowatch.outgoing.original import Original

OURS: Final = "99PNEUMOWATCH"  # designator of a private coding scheme (PS3.16 8.2)
SERIES_NUMBER: Final = 9801  # far from those of scanners; only its UID tells a series
RESEARCH: Final = (
    "Research and triage only; no medical device. A film that is not flagged is not cleared. "
    "The probability is a model's, and no reader has confirmed it."
)
AGE: Final = "The patient's age lies outside the ages that the model knows."


def made(notice: Notice, original: Original) -> Any:
    """The data set of the report, the same at every repeat."""
    from highdicom.sr import ComprehensiveSR

    dataset: Any = ComprehensiveSR(
        evidence=[_evidence(original)],
        content=_content(notice, original),
        series_instance_uid=notice.uid("report series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=notice.uid("report"),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        series_description="pneumowatch: result (research use)",
        is_complete=True,
    )
    dataset.SoftwareVersions = [__version__, notice.model_version[:64]]
    dated(dataset, notice)
    original.stamp(dataset)
    return dataset


def caution(notice: Notice) -> str | None:
    """With which caution the result was given, as a sentence."""
    return AGE if notice.caution == "age" else f"Caution: {notice.caution}." if notice.caution else None


def dated(dataset: Any, notice: Notice) -> None:
    """With the time of the result, in this machine's zone as DICOM has it, in place of now: a repeat is the same."""
    at = notice.finished_at.astimezone()
    for what in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{what}Date", at.strftime("%Y%m%d"))
        setattr(dataset, f"{what}Time", at.strftime("%H%M%S"))
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = at.strftime("%Y%m%d%H%M%S")


def _evidence(original: Original) -> Any:
    """The film as highdicom wants it, without the patient: its values are checked there, and complained of by name."""
    from pydicom.dataset import Dataset

    evidence = Dataset()
    evidence.SOPClassUID, evidence.SOPInstanceUID = original.sop_class, original.sop_instance
    evidence.StudyInstanceUID, evidence.SeriesInstanceUID = original.study, original.series
    evidence.Rows, evidence.Columns = original.rows, original.columns
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(evidence, keyword, "")
    evidence.StudyDate = evidence.StudyTime = None
    return evidence


def _content(notice: Notice, original: Original) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(notice.device, MAKER, manufacturer_name=MAKER, model_name=MAKER)
    observer = sr.ObserverContext(codes.DCM.Device, device)
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ChestImaging,
        imaging_measurements=[_finding(notice, original)],
    )


def _finding(notice: Notice, original: Original) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(notice.uid("finding"), f"scan {notice.scan_id}"),
        algorithm_id=sr.AlgorithmIdentification(
            MAKER, notice.model_version, [f"threshold {notice.threshold:.6g}"], manufacturer=MAKER
        ),
        finding_sites=[sr.FindingSite(codes.SCT.Lung)],
        measurements=[
            _figure("probability", "Probability of pneumonia", notice.probability),
            _figure("threshold", "Threshold for flagging", notice.threshold),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("flag", "Triage for pneumonia"), _code("flagged", "Flagged for pneumonia"))
        ],
        source_images=[sr.SourceImageForMeasurementGroup(original.sop_class, original.sop_instance)],
    )
    remarks = [RESEARCH, *filter(None, [caution(notice)])]
    for remark in remarks:
        group[0].ContentSequence.append(
            sr.TextContentItem(codes.DCM.Comment, remark, sr.RelationshipTypeValues.CONTAINS)
        )
    return group


def _figure(value: str, meaning: str, figure: float) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.Measurement(_code(value, meaning), round(figure, 6), codes.UCUM.NoUnits)


def _code(value: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, OURS, meaning)
